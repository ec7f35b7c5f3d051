"""What the segmenter returns: small frozen records with documented shapes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import torch

from fcclip_core.devices import undisturbed, watched
from fcclip_core.errors import FcclipError, ImageError
from fcclip_core.inference.kmax_merging import kmax_semantic_classes
from fcclip_core.inference.mask_resize import KEPT_SIZES, MaskResizer
from fcclip_core.inference.postprocess import instance_masks, semantic_classes
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.settings import FCCLIP_MERGING

_BYTE_IDS = 256
"""Ids below it fit into a byte."""

_BAND = 1 << 14
"""Pixels at a time; what is needed for them stays in the processor's cache."""


@dataclass(frozen=True)
class Label:
    """What a segment is called, by one frame or by those of a track.

    Attributes:
        class_id: The class's stable id.
        name: The class's name.
        score: Its probability, 0..1.
    """

    class_id: int
    name: str
    score: float


@dataclass(frozen=True)
class Segment:
    """One panoptic segment of a frame.

    Attributes:
        id: Value of the segment's pixels in `PanopticResult.segment_map`, from 1.
        class_id: The class's stable id in the segmenter that made the result, from 1.
        name: The class's name (its first synonym).
        score: Probability of the class after the ensemble (equation 7), 0..1; of a voted class (`tracking.Tracker`) its
            mean over the frames of the track.
        is_thing: True for a countable object, False for stuff.
        area: Pixels of the segment.
        box: `(x_min, y_min, x_max, y_max)` in pixels; the maxima are exclusive.
        embedding: float32 `(D,)` unit vector in CLIP's joint space: the out-of-vocabulary embedding of the mask.
        frame_label: What this frame alone says, where class, name and score were voted; else None.
    """

    id: int
    class_id: int
    name: str
    score: float
    is_thing: bool
    area: int
    box: tuple[int, int, int, int]
    embedding: np.ndarray = field(repr=False, compare=False)
    frame_label: Label | None = None

    @property
    def frame_class_id(self) -> int:
        """Class id that this frame alone gives; `class_id` where nothing was voted."""
        return self.frame_label.class_id if self.frame_label else self.class_id

    @property
    def frame_score(self) -> float:
        """Probability of that class in this frame; `score` where nothing was voted."""
        return self.frame_label.score if self.frame_label else self.score

    def voted(self, label: Label) -> Segment:
        """The same segment with its track's label; this frame's own label is kept in `frame_label`."""
        own = self.frame_label or Label(self.class_id, self.name, self.score)
        return replace(self, **vars(label), frame_label=own)

    def unvoted(self) -> Segment:
        """The same segment under what this frame alone calls it."""
        return replace(self, **vars(self.frame_label), frame_label=None) if self.frame_label else self


@dataclass(frozen=True)
class Instance:
    """One instance: a mask and a class, ranked by score.

    Attributes:
        mask: bool `(H, W)`.
        class_id: The class's stable id.
        name: The class's name.
        score: Class probability times mean mask probability inside the mask, 0..1.
        is_thing: True for a countable object.
    """

    mask: np.ndarray = field(repr=False, compare=False)
    class_id: int
    name: str
    score: float
    is_thing: bool


@dataclass(frozen=True)
class Instances:
    """Instances of a frame as columns, best score first; iterating yields `Instance` rows.

    Attributes:
        masks: bool `(N, H, W)`.
        class_ids: int64 `(N,)`, stable class ids.
        scores: float32 `(N,)`, 0..1.
        names: Class names, N of them.
        is_thing: bool `(N,)`.
    """

    masks: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray
    names: tuple[str, ...]
    is_thing: np.ndarray

    def without_pixels(self, ignored: np.ndarray) -> Instances:
        """The same instances without some pixels, bool `(H, W)`; instances without other pixels are dropped."""
        masks = self.masks & ~ignored
        kept = masks.any(axis=(1, 2))
        return Instances(
            masks=masks[kept],
            class_ids=self.class_ids[kept],
            scores=self.scores[kept],
            names=tuple(name for name, keep in zip(self.names, kept, strict=True) if keep),
            is_thing=self.is_thing[kept],
        )

    def __len__(self) -> int:
        """Number of instances."""
        return len(self.scores)

    def __getitem__(self, index: int) -> Instance:
        """The instance at `index`, 0 being the best."""
        return Instance(
            mask=self.masks[index],
            class_id=int(self.class_ids[index]),
            name=self.names[index],
            score=float(self.scores[index]),
            is_thing=bool(self.is_thing[index]),
        )

    def __iter__(self) -> Iterator[Instance]:
        """All instances, best first."""
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class Prediction:
    """The model's answer for one image, before masks are merged into segments.

    Q object queries, C classes; h and w are the padded input's sides.

    Attributes:
        mask_logits: float32 `(Q, h/4, w/4)`; a pixel belongs to the mask where the logit is positive.
        class_probs: float32 `(Q, C+1)`, ensemble of both classifiers (equation 7), void last; rows sum to 1.
        in_vocab_probs: float32 `(Q, C)`, in-vocabulary classifier, softmax without void.
        out_vocab_probs: float32 `(Q, C)`, out-of-vocabulary classifier, softmax without void.
        embeddings: float32 `(Q, D)` unit rows, out-of-vocabulary mask embeddings.
    """

    mask_logits: torch.Tensor
    class_probs: torch.Tensor
    in_vocab_probs: torch.Tensor
    out_vocab_probs: torch.Tensor
    embeddings: torch.Tensor


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a frame's segments were merged from, and its other maps are made from. Q object queries, C classes.

    A copy or a pickle of it has its tensors on the processor.

    Attributes:
        mask_logits: float32 `(Q, h, w)`, a quarter of the padded input.
        class_probs: float32 `(Q, C+1)`, after the ensemble, void last.
        geometry: The sizes that the image passed through.
        queries: int64 `(S,)`, the query of each segment, in the order of the segments.
        class_ids: Stable id of each class; 0 for distractors.
        names: Name of each class.
        is_thing: Whether each class is a thing.
        top_k: Instances wanted.
        is_distractor: Whether each class only competes; empty where none does.
        merging: How masks were merged, one of `settings.MERGINGS`.
    """

    mask_logits: torch.Tensor
    class_probs: torch.Tensor
    geometry: FrameGeometry
    queries: np.ndarray
    class_ids: tuple[int, ...]
    names: tuple[str, ...]
    is_thing: tuple[bool, ...]
    top_k: int
    is_distractor: tuple[bool, ...] = ()
    merging: str = FCCLIP_MERGING

    def semantic_map(self) -> np.ndarray:
        """See `PanopticResult.semantic_map`."""
        with undisturbed():
            classes_of = semantic_classes if self.merging == FCCLIP_MERGING else kmax_semantic_classes
            classes = classes_of(self.mask_logits, self.class_probs, self._resizer())
        ids: np.ndarray = np.array(self.class_ids, np.int32)[classes]
        return ids

    def instances(self) -> Instances:
        """See `PanopticResult.instances`."""
        with undisturbed():
            device = self.mask_logits.device
            things = torch.tensor(self.is_thing, device=device)
            probabilities = self.class_probs
            if any(self.is_distractor):
                hidden = torch.tensor((*self.is_distractor, False), device=device)
                things, probabilities = things & ~hidden[:-1], probabilities.masked_fill(hidden, -1.0)
            found = instance_masks(self.mask_logits, probabilities, things, self._resizer(), self.top_k)
        return Instances(
            masks=found.masks,
            class_ids=np.array(self.class_ids, np.int64)[found.class_indices],
            scores=found.scores,
            names=tuple(self.names[index] for index in found.class_indices),
            is_thing=np.array([self.is_thing[index] for index in found.class_indices], bool),
        )

    def probabilities(self) -> np.ndarray:
        """See `PanopticResult.probabilities`."""
        device = self.class_probs.device
        # On a GPU the next image may be in the queue already. What is read here was ready before there was a result, so
        # it need not wait for that image: it runs on a second stream.
        with watched(device), torch.cuda.stream(_side_stream(device)):
            queries = torch.from_numpy(self.queries).to(device)
            return self.class_probs[queries, :-1].cpu().numpy()

    def _resizer(self) -> MaskResizer:
        height, width = self.mask_logits.shape[1:]
        return _resizer(self.geometry, (height, width), self.mask_logits.device)

    def __getstate__(self) -> dict[str, Any]:
        """Everything, tensors as arrays: they can be read where there is no such device."""
        tensors = {name: getattr(self, name).cpu().numpy() for name in ("mask_logits", "class_probs")}
        return {**vars(self), **tensors}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes what `__getstate__` gave."""
        tensors = {name: torch.from_numpy(state[name]) for name in ("mask_logits", "class_probs")}
        self.__dict__.update(state, **tensors)


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A second CUDA stream with a higher priority; None on a CPU."""
    return torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None


@functools.lru_cache(KEPT_SIZES)
def _resizer(geometry: FrameGeometry, mask_size: tuple[int, int], device: torch.device) -> MaskResizer:
    return MaskResizer(geometry, mask_size, device)


@dataclass(frozen=True)
class PanopticResult:
    """One frame, labeled with exactly one vocabulary. It is data: it can be copied, pickled and sent elsewhere.

    Attributes:
        segment_map: int32 `(H, W)`: 0 where there is no segment, else a `Segment.id`.
        segments: The segments, in the order of their ids.
        vocabulary_version: Version of the vocabulary that the frame was labeled with.
        timings: Seconds per stage, in order: preprocess, model, classify, merge.
        evidence: What `semantic_map`, `instances` and `probabilities` are made from, by far the largest part (67 MB for
            250 queries at 800 x 1333 pixels); `dataclasses.replace(result, evidence=None)` does without them.
        ignored: bool `(H, W)`, pixels that `without_pixels` took out; they are in no map and no mask. None: there are
            none.
    """

    segment_map: np.ndarray
    segments: list[Segment]
    vocabulary_version: int
    timings: dict[str, float]
    evidence: Evidence | None = field(default=None, repr=False, compare=False)
    ignored: np.ndarray | None = field(default=None, repr=False, compare=False)

    def class_map(self) -> np.ndarray:
        """Class of each pixel's segment: int32 `(H, W)` of stable class ids, 0 where there is no segment."""
        return self._per_segment([segment.class_id for segment in self.segments], np.int32)

    def confidence_map(self) -> np.ndarray:
        """Score of each pixel's segment: float32 `(H, W)` in 0..1, 0 where there is no segment."""
        return self._per_segment([segment.score for segment in self.segments], np.float32)

    def semantic_map(self) -> np.ndarray:
        """Semantic segmentation as the paper evaluates it: int32 `(H, W)` of stable class ids.

        Every pixel gets the class with the largest sum over all queries of class probability times mask probability; no
        pixel stays unlabeled, except those that a distractor wins or that are ignored (0). Computed on request.

        Raises:
            FcclipError: The result has no evidence, here and below.
        """
        classes = self._needed().semantic_map()
        if self.ignored is not None:
            classes[self.ignored] = 0
        return classes

    def instances(self) -> Instances:
        """The `top_k_instances` best (query, class) pairs whose class is a thing. Computed on request.

        Ignored pixels are in no mask; instances without other pixels are dropped.
        """
        found = self._needed().instances()
        return found if self.ignored is None else found.without_pixels(self.ignored)

    def probabilities(self) -> np.ndarray:
        """Probability of every class for each segment, after the ensemble: float32 `(S, C)`.

        Segments and classes are in their order, distractors among them; what is missing to 1 is void's. Computed on
        request.
        """
        return self._needed().probabilities()

    def _needed(self) -> Evidence:
        if self.evidence is None:
            raise FcclipError("this result was kept without its evidence, which this map is made from; segment again")
        return self.evidence

    def with_ids(self, ids: Sequence[int]) -> PanopticResult:
        """The same result with other segment ids, in the map and in the segments.

        Args:
            ids: One for each segment, all different, from 1; the segments are put in their order.
        """
        order = np.argsort(ids, kind="stable")
        return replace(
            self,
            segment_map=self._per_segment(ids, np.int32),
            segments=[replace(self.segments[index], id=int(ids[index])) for index in order],
            evidence=self.evidence and replace(self.evidence, queries=self.evidence.queries[order]),
        )

    def without_pixels(self, ignored: np.ndarray) -> PanopticResult:
        """The same result with some pixels unlabeled: the robot's own arm, for example.

        Segments keep their ids; areas and boxes are those of what is left, and segments of which nothing is left are
        dropped.

        Args:
            ignored: bool `(H, W)`, true for the pixels that get no label.

        Raises:
            ImageError: It has another size.
        """
        if ignored.shape != self.segment_map.shape:
            sizes = " and ".join(f"{shape[1]} x {shape[0]}" for shape in (ignored.shape, self.segment_map.shape))
            raise ImageError(f"the pixels to ignore and the labels differ in size ({sizes}); resize the former")
        segment_map = np.where(ignored, np.int32(0), self.segment_map)
        lost = np.bincount(self.segment_map[ignored], minlength=max((item.id for item in self.segments), default=0) + 1)
        kept = [index for index, segment in enumerate(self.segments) if lost[segment.id] < segment.area]
        return replace(
            self,
            segment_map=segment_map,
            segments=[_remaining(self.segments[index], lost, segment_map) for index in kept],
            evidence=self.evidence and replace(self.evidence, queries=self.evidence.queries[kept]),
            ignored=ignored if self.ignored is None else self.ignored | ignored,
        )

    @functools.cached_property
    def compact_map(self) -> np.ndarray:
        """`segment_map` in the smallest type that holds its ids: uint8 or int32 `(H, W)`; computed once, read-only.

        What looks something up for each pixel reads a quarter of the bytes there, and so does the next one.
        """
        if max((segment.id for segment in self.segments), default=0) >= _BYTE_IDS:
            return self.segment_map
        compact = self.segment_map.astype(np.uint8)
        compact.flags.writeable = False
        return compact

    def fill_segments(self, pixels: np.ndarray, values: Sequence[float]) -> None:
        """Writes each segment's value into its pixels, and 0 where there is no segment.

        Args:
            pixels: `(H, W)`, of a type that holds the values.
            values: One a segment, in the order of `segments`.
        """
        ids = [segment.id for segment in self.segments]
        table: np.ndarray = np.zeros(max(max(ids, default=0) + 1, _BYTE_IDS), pixels.dtype)
        table[ids] = values
        if self.compact_map.dtype == np.uint8:
            cv2.LUT(self.compact_map, table, dst=pixels)
            return
        # In bands: numpy's index of eight bytes a pixel would cost more than the look-up.
        rows = max(_BAND // pixels.shape[1], 1)
        for top in range(0, pixels.shape[0], rows):
            band = slice(top, top + rows)
            # Every id is in the table; other modes make numpy copy.
            np.take(table, self.segment_map[band], out=pixels[band], mode="clip")

    def _per_segment(self, values: Sequence[float], dtype: type) -> np.ndarray:
        pixels: np.ndarray = np.empty(self.segment_map.shape, dtype)
        self.fill_segments(pixels, values)
        return pixels


def _remaining(segment: Segment, lost: np.ndarray, segment_map: np.ndarray) -> Segment:
    """The segment after some of its pixels were removed, measured in the remaining map."""
    if not lost[segment.id]:
        return segment
    left, top, right, bottom = segment.box
    mask = segment_map[top:bottom, left:right] == segment.id
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = (left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1)
    return replace(segment, area=segment.area - int(lost[segment.id]), box=box)
