"""What the network says of segments whose class is known: collected once, then classified in many ways."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from benchmarks.lib.report import progress
from fcclip_core import Segmenter
from fcclip_core.errors import CheckpointError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.results import PanopticResult
from fcclip_core.segmenter import EncodedImage
from fcclip_core.simulation.dataset import WorldPlan, render_scene
from fcclip_core.simulation.frames import Frame
from fcclip_core.simulation.names import world_vocabulary
from fcclip_core.simulation.render import Renderer
from fcclip_core.vocabulary.snapshot import VocabularySnapshot

_MATCH = 0.5
"""Intersection over union with the truth above which a segment has its class; at most one segment exceeds it."""


@dataclass(frozen=True)
class KnownSegments:
    """N segments of the simulated world, D numbers in an embedding.

    Attributes:
        in_vocab: float32 `(N, D)`, the embeddings of the in-vocabulary classifier, not normalized.
        out_vocab: float32 `(N, D)`, those of the out-of-vocabulary classifier.
        survives: bool `(N,)`, false where the mask is empty at stride 32.
        label: int64 `(N,)`, the true class, an index of the world's vocabulary.
        scene: int64 `(N,)`, the scene; a name of stuff or an object is one segment in each of its frames.
        item: int64 `(N,)`, the object's number in its scene.
        view: int64 `(N,)`, the number of the frame in its scene.
        area: int64 `(N,)`, pixels.
    """

    in_vocab: np.ndarray
    out_vocab: np.ndarray
    survives: np.ndarray
    label: np.ndarray
    scene: np.ndarray
    item: np.ndarray
    view: np.ndarray
    area: np.ndarray

    def __len__(self) -> int:
        """Number of segments."""
        return len(self.label)

    def where(self, chosen: np.ndarray) -> KnownSegments:
        """Some of the segments; `chosen` is an index of arrays."""
        return KnownSegments(*(getattr(self, item.name)[chosen] for item in fields(self)))

    def joined(self, others: KnownSegments) -> KnownSegments:
        """These segments and others."""
        columns = ((getattr(self, item.name), getattr(others, item.name)) for item in fields(self))
        return KnownSegments(*(np.concatenate(pair) for pair in columns))


def collect(segmenter: Segmenter, plan: WorldPlan, folder: Path | None) -> KnownSegments:
    """Segments of all frames of a plan; read from `folder` if they were collected before.

    Masks are those of the frame's panoptic labels under all names of the world, so that each segment is one that a user
    would see; the names that they got do not count.
    """
    width, height = plan.size
    path = folder and folder / f"{plan.seed}_{plan.scenes}x{plan.views}_{plan.split}_{width}x{height}.npz"
    if path and path.exists():
        with np.load(path, allow_pickle=False) as kept:
            return KnownSegments(**kept)
    columns: dict[str, list[np.ndarray | int | bool]] = {item.name: [] for item in fields(KnownSegments)}
    snapshot = segmenter.prepare_vocabulary(world_vocabulary())
    with Renderer() as renderer:
        for scene in range(plan.scenes):
            for view, frame in enumerate(render_scene(renderer, plan, scene)):
                for row in _rows_of(segmenter, snapshot, frame):
                    for name, value in (row | {"scene": scene, "view": view}).items():
                        columns[name].append(value)
            if scene % 20 == 19:
                progress(f"{scene + 1} scenes of seed {plan.seed}")
    known = KnownSegments(**{name: np.array(values) for name, values in columns.items()})
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            np.savez(part.open("wb"), **vars(known))
    return known


def _rows_of(
    segmenter: Segmenter, snapshot: VocabularySnapshot, frame: Frame
) -> Iterator[dict[str, np.ndarray | int | bool]]:
    encoded = segmenter.encode(frame.image)
    result = segmenter.decode(encoded, snapshot)
    return _matched(encoded, result, frame, {name: index for index, name in enumerate(snapshot.vocabulary.names)})


def _matched(
    encoded: EncodedImage, result: PanopticResult, frame: Frame, numbers: dict[str, int]
) -> Iterator[dict[str, np.ndarray | int | bool]]:
    """A row for each segment that overlaps with one of the truth's."""
    if result.evidence is None:
        raise CheckpointError("the result was kept without its evidence")
    output = encoded.output
    for segment, query in zip(result.segments, result.evidence.queries.tolist(), strict=True):
        mask = result.segment_map == segment.id
        for truth in frame.segments:
            other = frame.segment_map == truth.id
            both = int((mask & other).sum())
            if both > _MATCH * (int(mask.sum()) + int(other.sum()) - both):
                yield {
                    "in_vocab": output.in_vocab_embedding[0, query].float().cpu().numpy(),
                    "out_vocab": output.out_vocab_embedding[0, query].float().cpu().numpy(),
                    "survives": bool(output.mask_survives[0, query]),
                    "label": numbers[truth.name],
                    "item": truth.id,
                    "area": segment.area,
                }
