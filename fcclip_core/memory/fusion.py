"""What a further look changes in an object: place, box, embedding, names and views.

Position: an information filter. Noise averages out over looks; what a view does not show does so only over views from
different sides, so its covariance grows with the number of looks from the same side. Box: each face follows what is
seen, outwards quickly and inwards slowly, so that the box grows to what has been seen from all sides, and one bad depth
image does not stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fcclip_core.memory.crops import crop_of
from fcclip_core.memory.measurement import Measurements
from fcclip_core.memory.objects import SECTORS, NameCount, RememberedObject, State, View
from fcclip_core.memory.observation import Observation, SeenSegment
from fcclip_core.memory.settings import MemorySettings
from fcclip_core.memory.table import Places

MAX_VIEWS = 3
"""Views kept of an object: each costs an embedding in memory."""

_OUTWARDS, _INWARDS = 0.2, 0.08
"""Share of the way that a face of the box goes to where it is seen, outwards and inwards, after many looks. In the
first ones it is that of a mean, and half of that: the box grows at once, and one bad mask does not stay."""

_HALVES = (((6, 7, 0, 1), (2, 3, 4, 5)), ((0, 1, 2, 3), (4, 5, 6, 7)))
"""Sectors from which the face towards +x and that towards -x are seen; and those of y."""

_FEW_LOOKS, _MOST_GROWTH = 4, 0.03
"""After so many looks a face of the box goes outwards by so many meters a look at most: masks leak by far more."""

_FACE_LOOKS = 2
"""Looks at each of two opposite faces of the box after which both count as seen."""

_DRIFT = 0.003
"""Standard deviation in meters by which a position may change between two looks; bounds the filter's memory."""

_MOST_LOOKS = 60.0
"""Weight that the mean embedding has at most, in looks of score 1: later ones go on counting."""

_OUTLIER = 0.1
"""Weight of an embedding unlike those before, as CLIP gives it for masks smaller than a cell of its features."""

_SAME_SIDE = math.cos(math.radians(40))
"""Views within this angle of each other show the same side; the better one is kept."""

_CLEARLY_BETTER = 1.15
"""Factor of quality at which a view replaces one of the same side; each replacement costs a new picture."""

_MOST_NAMES = 32
"""Names counted for an object; the least frequent is dropped for another one."""


def new_object(
    number: int,
    measured: Measurements,
    row: int,
    observation: Observation,
    look: int,
    words: str,
    settings: MemorySettings,
) -> RememberedObject:
    """The object of a first look.

    Args:
        number: Its id.
        measured: The segments of the frame.
        row: Which of them it is.
        observation: The frame.
        look: Number of the observation.
        words: Key of the frame's vocabulary; empty if unknown.
        settings: The memory's.
    """
    segment, side = measured.segments[row], side_of(measured.direction[row])
    view = _view(measured, row, observation, np.array(observation.map_from_camera, np.float64))
    return RememberedObject(
        id=number,
        state=State.TENTATIVE,
        log_odds=0.0,
        is_thing=segment.is_thing,
        own_name="",
        names=_counted({}, segment.name, segment.score),
        word_looks={words: 1} if words else {},
        position=measured.position[row].copy(),
        covariance=measured.covariance[row].copy(),
        low=measured.low[row].copy(),
        high=measured.high[row].copy(),
        side_looks=tuple(int(sector == side) for sector in range(SECTORS)),
        embedding_sum=(max(segment.score, 0.01) * measured.embedding[row]).astype(np.float32),
        first_seen=observation.stamp,
        last_seen=observation.stamp,
        first_look=look,
        last_look=look,
        looks=1,
        views=(view,),
        approach=view if _is_approach(view, settings) else None,
        crop=crop_of(observation.image, segment.box, settings.crop_side),
    )


def fused(
    known: Sequence[RememberedObject],
    places: Places,
    measured: Measurements,
    observation: Observation,
    look: int,
    words: str,
    settings: MemorySettings,
) -> list[RememberedObject]:
    """Objects after a further look.

    Args:
        known: The objects, M.
        places: Theirs.
        measured: The M segments that they are, in the same order.
        observation: The frame.
        look: Number of the observation.
        words: Key of the frame's vocabulary; empty if unknown.
        settings: The memory's.

    Returns:
        The objects in the same order; their existence stays what it was.
    """
    if not known:
        return []
    sides = [side_of(direction) for direction in measured.direction]
    side_looks = np.array([item.side_looks for item in known])
    positions, covariances = _fused_positions(places, measured, side_looks[np.arange(len(known)), sides])
    low, high = _fused_boxes(places, measured, np.array([item.looks for item in known]))
    positions = np.where(_axes_seen(side_looks), (low + high) / 2, positions)
    sums = _fused_embeddings(known, measured, settings.min_cosine)
    updated, pose = [], np.array(observation.map_from_camera, np.float64)
    for row, (item, side) in enumerate(zip(known, sides, strict=True)):
        segment, view = measured.segments[row], _view(measured, row, observation, pose)
        views, crop = _with_view(item, view, segment, observation, settings)
        best_approach = item.approach is None or view.quality > item.approach.quality
        updated.append(
            replace(
                item,
                names=_counted(item.names, segment.name, segment.score),
                word_looks={**item.word_looks, words: item.word_looks.get(words, 0) + 1} if words else item.word_looks,
                # Copies, as a row would keep the whole frame's alive.
                position=positions[row].copy(),
                covariance=covariances[row].copy(),
                low=low[row].copy(),
                high=high[row].copy(),
                side_looks=tuple(count + (sector == side) for sector, count in enumerate(item.side_looks)),
                embedding_sum=sums[row].copy(),
                first_seen=min(item.first_seen, observation.stamp),
                last_seen=observation.stamp,
                last_look=look,
                looks=item.looks + 1,
                views=views,
                approach=view if best_approach and _is_approach(view, settings) else item.approach,
                crop=crop,
            )
        )
    return updated


def with_part(known: RememberedObject, measured: Measurements, row: int) -> RememberedObject:
    """The object after another part of it was seen in the same frame: the box grows, all else stays."""
    low, high = np.minimum(known.low, measured.low[row]), np.maximum(known.high, measured.high[row])
    return replace(known, low=low, high=high)


def joined(first: RememberedObject, second: RememberedObject) -> RememberedObject:
    """Two records of one object as one, under the first one's id; places and looks of both count."""
    information = [np.linalg.inv(item.covariance) for item in (first, second)]
    covariance = np.linalg.inv(information[0] + information[1])
    names = dict(first.names)
    for name, count in second.names.items():
        own = names.get(name, NameCount())
        names[name] = NameCount(own.looks + count.looks, own.score_sum + count.score_sum)
    newer = max(first, second, key=lambda item: item.last_look)
    approaches = [item.approach for item in (first, second) if item.approach is not None]
    best = max(first, second, key=lambda item: item.best_view.quality)
    return replace(
        first,
        state=State.CONFIRMED if State.CONFIRMED in (first.state, second.state) else newer.state,
        log_odds=max(first.log_odds, second.log_odds),
        own_name=first.own_name or second.own_name,
        names=_limited(names),
        word_looks={
            key: first.word_looks.get(key, 0) + second.word_looks.get(key, 0)
            for key in (*first.word_looks, *second.word_looks)
        },
        position=covariance @ (information[0] @ first.position + information[1] @ second.position),
        covariance=_symmetric(covariance),
        low=np.minimum(first.low, second.low),
        high=np.maximum(first.high, second.high),
        side_looks=tuple(a + b for a, b in zip(first.side_looks, second.side_looks, strict=True)),
        embedding_sum=first.embedding_sum + second.embedding_sum,
        first_seen=min(first.first_seen, second.first_seen),
        last_seen=newer.last_seen,
        first_look=min(first.first_look, second.first_look),
        last_look=newer.last_look,
        looks=first.looks + second.looks,
        views=_best_of((*first.views, *second.views)),
        approach=max(approaches, key=lambda view: view.quality, default=None),
        crop=best.crop,
    )


def moved_to(known: RememberedObject, found: RememberedObject) -> RememberedObject:
    """An object that was found again elsewhere: its id, names and history, at the new place and with its views."""
    together = joined(known, found)
    return replace(
        together,
        state=found.state,
        log_odds=found.log_odds,
        position=found.position,
        covariance=found.covariance,
        low=found.low,
        high=found.high,
        side_looks=found.side_looks,
        last_seen=found.last_seen,
        last_look=found.last_look,
        views=found.views,
        approach=found.approach,
        crop=found.crop,
    )


def side_of(direction: np.ndarray) -> int:
    """Which of `SECTORS` directions a camera looks from, 0..7; `direction` is that of its ray in the map."""
    angle = math.atan2(-direction[1], -direction[0])
    return int((angle / (2 * math.pi) * SECTORS) % SECTORS) % SECTORS


def _fused_positions(
    places: Places, measured: Measurements, looks_from_side: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A Kalman update in its Joseph-free information form: positions `(M, 3)` and covariances `(M, 3, 3)`."""
    prior = places.covariances + _DRIFT**2 * np.eye(3)
    # The n-th look from one side tells little new of what that side hides: its weight falls as 1 / n.
    seen = measured.noise + measured.shape * (1 + looks_from_side)[:, None, None] + 1e-8 * np.eye(3)
    gain = prior @ np.linalg.inv(prior + seen)
    difference = measured.position - places.positions
    positions = places.positions + (gain @ difference[:, :, None])[:, :, 0]
    return positions, _symmetric(prior - gain @ prior)


def _fused_boxes(places: Places, measured: Measurements, looks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cut = np.array([segment.cut for segment in measured.segments])
    outwards = np.maximum(_OUTWARDS, 1 / (looks + 1))[:, None]
    inwards = np.where(cut, 0.0, np.maximum(_INWARDS, 0.5 / (looks + 1)))[:, None]
    # A face that looks away from the camera is not seen: what is in front of it says nothing.
    hides_low, hides_high = measured.direction < -0.2, measured.direction > 0.2
    most = np.where(looks < _FEW_LOOKS, math.inf, _MOST_GROWTH)[:, None]
    below, above = places.low - measured.low, measured.high - places.high
    low = places.low - np.where(
        below > 0, np.minimum(outwards * below, most), np.where(hides_low, 0.0, inwards) * below
    )
    high = places.high + np.where(
        above > 0, np.minimum(outwards * above, most), np.where(hides_high, 0.0, inwards) * above
    )
    return np.minimum(low, high), np.maximum(low, high)


def _axes_seen(side_looks: np.ndarray) -> np.ndarray:
    """Along which axes both faces of the boxes were seen, so that their middle is the object's.

    Along z they are from the start: cameras look down on what stands before them.

    Args:
        side_looks: int `(M, SECTORS)`.

    Returns:
        bool `(M, 3)`.
    """
    seen = np.ones((len(side_looks), 3), bool)
    for axis, halves in enumerate(_HALVES):
        fewer = np.minimum(*(side_looks[:, half].sum(1) for half in halves))
        seen[:, axis] = fewer >= _FACE_LOOKS
    return seen


def _fused_embeddings(known: Sequence[RememberedObject], measured: Measurements, min_cosine: float) -> np.ndarray:
    """Sums of embeddings after the look: float32 `(M, D)`."""
    sums = np.array([item.embedding_sum for item in known])
    lengths = np.linalg.norm(sums, axis=1)
    cosines = (sums * measured.embedding).sum(1) / np.maximum(lengths, 1e-12)
    is_outlier = (np.array([item.looks for item in known]) >= _FEW_LOOKS) & (cosines < min_cosine)
    weights = np.maximum([segment.score for segment in measured.segments], 0.01) * np.where(is_outlier, _OUTLIER, 1.0)
    kept = np.minimum(1.0, _MOST_LOOKS / np.maximum(lengths, 1e-12))
    fused_sums: np.ndarray = (sums * kept[:, None] + weights[:, None] * measured.embedding).astype(np.float32)
    return fused_sums


def _counted(names: Mapping[str, NameCount], name: str, score: float) -> Mapping[str, NameCount]:
    if not name:
        return names
    own = names.get(name, NameCount())
    return _limited({**names, name: NameCount(own.looks + 1, own.score_sum + score)})


def _limited(names: Mapping[str, NameCount]) -> Mapping[str, NameCount]:
    if len(names) <= _MOST_NAMES:
        return names
    return dict(sorted(names.items(), key=lambda item: -item[1].score_sum)[:_MOST_NAMES])


def _view(measured: Measurements, row: int, observation: Observation, pose: np.ndarray) -> View:
    segment, pixels = measured.segments[row], observation.camera.width * observation.camera.height
    size = min(math.sqrt(segment.area / pixels) / 0.25, 1.0)
    return View(
        stamp=observation.stamp,
        camera_name=observation.camera_name,
        map_from_camera=pose,
        distance=float(measured.distance[row]),
        quality=segment.score * size * (0.3 if segment.cut else 1.0),
        embedding=measured.embedding[row].astype(np.float16),
    )


def _with_view(
    known: RememberedObject, view: View, segment: SeenSegment, observation: Observation, settings: MemorySettings
) -> tuple[tuple[View, ...], bytes]:
    """The views and the picture of the best one, after a further view."""
    same = [item for item in known.views if _is_same_side(item, view, known.position)]
    if any(view.quality < _CLEARLY_BETTER * item.quality for item in same):
        return known.views, known.crop
    views = _best_of((*(item for item in known.views if item not in same), view))
    if views[0] is not view:
        return views, known.crop
    return views, crop_of(observation.image, segment.box, settings.crop_side) or known.crop


def _best_of(views: tuple[View, ...]) -> tuple[View, ...]:
    return tuple(sorted(views, key=lambda item: -item.quality)[:MAX_VIEWS])


def _is_same_side(first: View, second: View, position: np.ndarray) -> bool:
    rays = [position - view.map_from_camera[:3, 3] for view in (first, second)]
    lengths = [math.sqrt(ray @ ray) for ray in rays]
    return min(lengths) == 0 or float(rays[0] @ rays[1]) >= _SAME_SIDE * lengths[0] * lengths[1]


def _is_approach(view: View, settings: MemorySettings) -> bool:
    return settings.approach_near <= view.distance <= settings.approach_far


def _symmetric(matrices: np.ndarray) -> np.ndarray:
    halves: np.ndarray = (matrices + np.swapaxes(matrices, -1, -2)) / 2
    return halves
