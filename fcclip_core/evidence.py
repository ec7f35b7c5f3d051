"""What a frame's segments were merged from: kept with the result, for the maps that are made on request."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fcclip_core.devices import undisturbed, watched
from fcclip_core.inference.kmax_merging import kmax_semantic_classes
from fcclip_core.inference.mask_resize import KEPT_SIZES, MaskResizer
from fcclip_core.inference.postprocess import instance_masks, semantic_classes
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.results import Instances
from fcclip_core.settings import FCCLIP_MERGING


@dataclass(frozen=True, eq=False)
class FrameEvidence:
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

    def of_segments(self, rows: Sequence[int] | np.ndarray) -> FrameEvidence:
        """See `Evidence.of_segments`."""
        return replace(self, queries=self.queries[rows])

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
