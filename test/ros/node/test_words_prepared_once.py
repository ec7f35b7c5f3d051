"""A vocabulary change encodes each new word once and builds its classifier once, however the vocabulary is set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rclpy.parameter import Parameter
from ros_harness import Peer, set_parameters, wait_until

from fcclip_core.inference.classification import TextClassifier
from fcclip_core.vocabulary.text_embeddings import TEMPLATES, TextEncoder
from fcclip_ros import msg, srv
from fcclip_ros.perception import Perception


class Work:
    """Counted work of the node.

    Attributes:
        prompts: The prompts that were encoded.
        classifiers: The number of words of each classifier that was built.
    """

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.classifiers: list[int] = []

    def clear(self) -> None:
        self.prompts.clear()
        self.classifiers.clear()


@pytest.fixture(scope="module")
def work() -> Iterator[Work]:
    counted = Work()
    encode: Callable[..., Any] = TextEncoder.__call__
    build: Callable[..., Any] = TextClassifier.build.__func__  # type: ignore[attr-defined]

    def encoded(self: TextEncoder, prompts: list[str]) -> Any:
        counted.prompts += prompts
        return encode(self, prompts)

    def built(cls: type[TextClassifier], model: Any, rows: Any, counts: Any, *rest: Any) -> Any:
        counted.classifiers.append(len(rows))
        return build(cls, model, rows, counts, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextEncoder, "__call__", encoded)
        patch.setattr(TextClassifier, "build", classmethod(built))
        yield counted


@pytest.fixture(scope="module")
def host(work: Work, tmp_path_factory: pytest.TempPathFactory, domain: None) -> Iterator[Peer]:
    """A node with a small model, nothing in its cache, and words that compete."""
    values = {"checkpoint": "recipe:tiny", "vocabulary": ["cup", "plate"], "background": ["floor", "wall"]}
    overrides = [Parameter(name, value=value) for name, value in {**values, "device": "cpu"}.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FCCLIP_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        peer = Peer(lambda **options: Perception(parameter_overrides=overrides, **options))
        try:
            peer.node.begin()  # type: ignore[attr-defined]
            wait_until(lambda: version(peer) == 1, 60.0)
            yield peer
            peer.node.finish(30.0)  # type: ignore[attr-defined]
        finally:
            peer.close()


def version(host: Peer) -> int:
    active = host.node._vocabulary  # type: ignore[attr-defined]
    return active.version if active else 0


def prompts_of(*names: str) -> list[str]:
    return sorted(template.format(name) for name in names for template in TEMPLATES)


def test_configuring_prepares_the_vocabulary_once(host: Peer, work: Work) -> None:
    assert sorted(work.prompts) == prompts_of("cup", "plate", "floor", "wall")
    assert work.classifiers == [4]


def test_a_vocabulary_by_service_is_prepared_once(host: Peer, peer: Peer, work: Work) -> None:
    work.clear()
    before = version(host)
    classes = [msg.VocabularyClass(synonyms=names) for names in (["cup"], ["red spoon", "soup spoon"])]
    answer = peer.call(srv.SetVocabulary, "/fcclip/set_vocabulary", srv.SetVocabulary.Request(classes=classes))
    assert answer.success and answer.version == version(host) == before + 1
    assert sorted(work.prompts) == prompts_of("red spoon", "soup spoon")
    assert work.classifiers == [5]


def test_a_vocabulary_by_parameter_is_prepared_once(host: Peer, peer: Peer, work: Work) -> None:
    work.clear()
    before = version(host)
    assert set_parameters(peer, vocabulary=["cup", "green fork", "blue knife"])[0].successful
    wait_until(lambda: version(host) > before)
    assert sorted(work.prompts) == prompts_of("green fork", "blue knife")
    assert work.classifiers == [5]


def test_other_options_build_a_classifier_and_encode_nothing(host: Peer, peer: Peer, work: Work) -> None:
    work.clear()
    before = version(host)
    assert set_parameters(peer, stuff=["cup"])[0].successful
    wait_until(lambda: version(host) > before)
    assert work.prompts == [] and len(work.classifiers) == 1
