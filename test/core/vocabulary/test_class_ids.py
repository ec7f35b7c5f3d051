"""Ids that are looked up are not promised."""

from __future__ import annotations

import pytest

from fcclip_core.errors import VocabularyError
from fcclip_core.vocabulary.class_ids import ClassIds
from fcclip_core.vocabulary.classes import Vocabulary


def test_looking_up_uses_up_no_id() -> None:
    ids = ClassIds()
    assert ids.resolve(Vocabulary.from_names(["cup", "plate"])) == (1, 2)
    assert ids.look_up(Vocabulary.from_names(["plate", "fork"])) == (2, 3)
    assert ids.resolve(Vocabulary.from_names(["spoon"])) == (3,)
    with pytest.raises(VocabularyError, match="asks for id 1"):
        ids.look_up(Vocabulary.from_names(["knife"], ids={"knife": 1}))
