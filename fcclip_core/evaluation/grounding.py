"""Grounding segmentation (Table 7): the vocabulary of each image is the classes that it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from fcclip_core.device_labels import Words
from fcclip_core.segmenter import VocabularySnapshot


def restricted(snapshot: VocabularySnapshot, classes: Sequence[int]) -> VocabularySnapshot:
    """A snapshot with some of its classes; ids, colours and text rows stay what they are.

    Args:
        snapshot: C classes.
        classes: Positions of the classes to keep, 0..C-1, in rising order, at least one.
    """
    classifier = snapshot.classifier
    kept = torch.tensor(list(classes), device=classifier.class_of_row.device)
    rows = torch.isin(classifier.class_of_row, kept)
    return replace(
        snapshot,
        vocabulary=replace(snapshot.vocabulary, classes=tuple(snapshot.vocabulary.classes[i] for i in classes)),
        class_ids=tuple(snapshot.class_ids[i] for i in classes),
        colors=tuple(snapshot.colors[i] for i in classes),
        seen=tuple(snapshot.seen[i] for i in classes),
        words=Words(
            replace(
                classifier,
                rows=classifier.rows[rows],
                class_of_row=torch.searchsorted(kept, classifier.class_of_row[rows]),
                seen=classifier.seen[kept],
            ),
            snapshot.words.is_thing[kept],
        ),
    )
