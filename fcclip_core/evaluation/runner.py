"""The evaluation loop: each image runs through the network once, for any number of decoding variants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fcclip_core.datasets.records import Dataset, PanopticSample, Sample
from fcclip_core.distributed import gathered, rank, world_size
from fcclip_core.errors import VocabularyError
from fcclip_core.evaluation.averages import class_groups
from fcclip_core.evaluation.overlaps import mask_overlaps, segment_overlaps
from fcclip_core.evaluation.recall import MaskRecall
from fcclip_core.evaluation.scoreboard import Scoreboard, Scores
from fcclip_core.evaluation.timing import SEGMENTS, TIME_RULES, ImageTimes, TimeRule
from fcclip_core.quoting import short
from fcclip_core.segmenter import EncodedImage, Segmenter
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.snapshot import VocabularySnapshot


@dataclass
class Evaluation:
    """Counts so far.

    Attributes:
        things: Whether each class is a thing.
        seen: Whether each class is a seen class.
        main: Results with the segmenter's own settings.
        grounding: Results with each image's vocabulary restricted to the classes that it contains (Table 7).
        forms: Results with other settings, by name.
        mask_recall: Recall of the masks of all object queries.
        segment_recall: Recall of the segments of `main`.
        times: Times and number of the images.
        panoptic: Whether the ground truth is panoptic.
    """

    things: tuple[bool, ...]
    seen: tuple[bool, ...]
    main: Scoreboard
    grounding: Scoreboard
    forms: dict[str, Scoreboard]
    mask_recall: MaskRecall
    segment_recall: MaskRecall
    times: ImageTimes
    panoptic: bool = False

    @property
    def images(self) -> int:
        """Number of images."""
        return self.times.images

    def merge(self, other: Evaluation) -> None:
        """Adds the counts of another process."""
        self.main.merge(other.main)
        self.grounding.merge(other.grounding)
        for name, board in self.forms.items():
            board.merge(other.forms[name])
        self.mask_recall.merge(other.mask_recall)
        self.segment_recall.merge(other.segment_recall)
        self.times.merge(other.times)
        self.panoptic |= other.panoptic

    def scores(self) -> Scores:
        """All metrics by name; PQ, AP and IoU in per cent, recall 0..1, `fps` in images per second and process."""
        scores = dict(self.main.scores())
        if self.panoptic:
            groups = class_groups(self.things, self.seen)
            scores |= self.mask_recall.scores("recall", groups)
            scores |= self.segment_recall.scores("segment_recall", groups)
        grounded = self.grounding.scores()
        scores |= {f"grounding.{name}": grounded[f"{name}.all"] for name in ("pq", "miou") if f"{name}.all" in grounded}
        return scores | {"fps": self.times.per_second()}


def evaluate(
    dataset: Dataset,
    segmenter: Segmenter,
    snapshot: VocabularySnapshot,
    things: tuple[bool, ...],
    *,
    forms: Mapping[str, InferenceSettings] | None = None,
    rule: TimeRule = TIME_RULES[SEGMENTS],
    limit: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Evaluation | None:
    """Runs a dataset through a segmenter.

    Args:
        dataset: Images with ground truth.
        segmenter: The segmenter with its settings.
        snapshot: The vocabulary, in the order of the dataset's classes.
        things: Whether each class is a thing.
        forms: More settings to evaluate, by name; the input size is always the segmenter's.
        rule: What counts as an image's time.
        limit: Evaluate only the first images; None: all.
        advance: Called after each image of this process.

    Returns:
        The counts of all processes in the first process; None in the others.

    Raises:
        DatasetError: A sample cannot be read.
        VocabularyError: A class is a distractor, although every class of a dataset is evaluated.
    """
    require_no_distractors(snapshot)
    forms = dict(forms or {})

    def board(instances: bool = False) -> Scoreboard:
        return Scoreboard(snapshot.class_ids, things, snapshot.seen, instances=instances)

    total = Evaluation(
        things=things,
        seen=snapshot.seen,
        main=board(instances=True),
        grounding=board(),
        forms={name: board() for name in forms},
        mask_recall=MaskRecall(len(things)),
        segment_recall=MaskRecall(len(things)),
        times=ImageTimes(rule),
    )
    count = len(dataset) if limit is None else min(limit, len(dataset))
    for number in range(rank(), count, world_size()):
        sample = dataset[number]
        encoded = segmenter.encode(sample.image)
        _count(total, number, sample, segmenter, snapshot, encoded)
        for name, settings in forms.items():
            total.forms[name].update(number, sample, segmenter.decode(encoded, snapshot, settings))
        advance()
    return _gathered(total)


def require_no_distractors(snapshot: VocabularySnapshot) -> None:
    """Checks that every class of a vocabulary can be evaluated.

    Raises:
        VocabularyError: A class is a distractor.
    """
    if snapshot.distractors:
        name = short(snapshot.distractors[0].item.name)
        raise VocabularyError(
            f"the class {name} is a distractor, but all classes of a dataset are evaluated; use a vocabulary without it"
        )


def _count(
    total: Evaluation,
    number: int,
    sample: Sample,
    segmenter: Segmenter,
    snapshot: VocabularySnapshot,
    encoded: EncodedImage,
) -> None:
    """Decodes an image with the whole vocabulary and with only its own classes, and counts both."""
    result = segmenter.decode(encoded, snapshot)
    total.main.update(number, sample, result)
    total.times.add(result, isinstance(sample, PanopticSample))
    class_map = sample.class_map()
    present = np.unique(class_map[class_map >= 0]).tolist()
    if present:
        total.grounding.update(number, sample, segmenter.decode(encoded, snapshot.only(present)))
    if isinstance(sample, PanopticSample):
        total.panoptic = True
        total.mask_recall.update(sample, mask_overlaps(sample, encoded))
        total.segment_recall.update(sample, segment_overlaps(sample, result.segment_map, len(result.segments)))


def _gathered(part: Evaluation) -> Evaluation | None:
    """Merges the counts of all processes in the first one."""
    parts = gathered(part)
    if parts is None:
        return None
    for other in parts[1:]:
        parts[0].merge(other)
    return parts[0]
