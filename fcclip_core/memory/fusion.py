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
from fcclip_core.memory.measurement import Measurement
from fcclip_core.memory.objects import SECTORS, NameCount, RememberedObject, State, View
from fcclip_core.memory.observation import Observation
from fcclip_core.memory.settings import MemorySettings

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
    number: int, measured: Measurement, observation: Observation, look: int, words: str, settings: MemorySettings
) -> RememberedObject:
    """The object of a first look.

    Args:
        number: Its id.
        measured: The segment.
        observation: The frame.
        look: Number of the observation.
        words: Key of the frame's vocabulary; empty if unknown.
        settings: The memory's.
    """
    score = measured.segment.score
    view = _view(measured, observation)
    return RememberedObject(
        id=number,
        state=State.TENTATIVE,
        log_odds=0.0,
        is_thing=measured.segment.is_thing,
        own_name="",
        names=_counted({}, measured.segment.name, score),
        word_looks={words: 1} if words else {},
        position=measured.position,
        covariance=measured.covariance,
        low=measured.low,
        high=measured.high,
        side_looks=tuple(int(sector == side_of(measured.direction)) for sector in range(SECTORS)),
        embedding_sum=(max(score, 0.01) * measured.embedding).astype(np.float32),
        first_seen=observation.stamp,
        last_seen=observation.stamp,
        first_look=look,
        last_look=look,
        looks=1,
        views=(view,),
        approach=view if _is_approach(view, settings) else None,
        crop=crop_of(observation.image, measured.segment.box, settings.crop_side),
    )


def fused(
    known: RememberedObject,
    measured: Measurement,
    observation: Observation,
    look: int,
    words: str,
    settings: MemorySettings,
) -> RememberedObject:
    """The object after a further look; arguments as for `new_object`. Its existence stays what it was."""
    side = side_of(measured.direction)
    position, covariance = _fused_position(known, measured, known.side_looks[side])
    low, high = _fused_box(known, measured)
    position = np.where(_axes_seen(known.side_looks), (low + high) / 2, position)
    view = _view(measured, observation)
    views, crop = _with_view(known, view, measured, observation, settings)
    best_approach = known.approach is None or view.quality > known.approach.quality
    return replace(
        known,
        names=_counted(known.names, measured.segment.name, measured.segment.score),
        word_looks={**known.word_looks, words: known.word_looks.get(words, 0) + 1} if words else known.word_looks,
        position=position,
        covariance=covariance,
        low=low,
        high=high,
        side_looks=tuple(count + (sector == side) for sector, count in enumerate(known.side_looks)),
        embedding_sum=_fused_embedding(known, measured, settings.min_cosine),
        first_seen=min(known.first_seen, observation.stamp),
        last_seen=observation.stamp,
        last_look=look,
        looks=known.looks + 1,
        views=views,
        approach=view if best_approach and _is_approach(view, settings) else known.approach,
        crop=crop,
    )


def with_part(known: RememberedObject, measured: Measurement) -> RememberedObject:
    """The object after another part of it was seen in the same frame: the box grows, all else stays."""
    return replace(known, low=np.minimum(known.low, measured.low), high=np.maximum(known.high, measured.high))


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


def _fused_position(
    known: RememberedObject, measured: Measurement, looks_from_side: int
) -> tuple[np.ndarray, np.ndarray]:
    """A Kalman update in its Joseph-free information form: position and covariance."""
    prior = known.covariance + _DRIFT**2 * np.eye(3)
    # The n-th look from one side tells little new of what that side hides: its weight falls as 1 / n.
    seen = measured.noise + measured.shape * (1 + looks_from_side) + 1e-8 * np.eye(3)
    gain = prior @ np.linalg.inv(prior + seen)
    position = known.position + gain @ (measured.position - known.position)
    return position, _symmetric(prior - gain @ prior)


def _fused_box(known: RememberedObject, measured: Measurement) -> tuple[np.ndarray, np.ndarray]:
    outwards = max(_OUTWARDS, 1 / (known.looks + 1))
    inwards = 0.0 if measured.segment.cut else max(_INWARDS, 0.5 / (known.looks + 1))
    # A face that looks away from the camera is not seen: what is in front of it says nothing.
    hides_low, hides_high = measured.direction < -0.2, measured.direction > 0.2
    most = math.inf if known.looks < _FEW_LOOKS else _MOST_GROWTH
    below, above = known.low - measured.low, measured.high - known.high
    low = known.low - np.where(below > 0, np.minimum(outwards * below, most), np.where(hides_low, 0.0, inwards) * below)
    high = known.high + np.where(
        above > 0, np.minimum(outwards * above, most), np.where(hides_high, 0.0, inwards) * above
    )
    return np.minimum(low, high), np.maximum(low, high)


def _axes_seen(side_looks: Sequence[int]) -> np.ndarray:
    """Along which axes both faces of the box were seen, so that its middle is the object's: bool `(3,)`.

    Along z they are from the start: cameras look down on what stands before them.
    """
    seen = [min(sum(side_looks[sector] for sector in half) for half in halves) >= _FACE_LOOKS for halves in _HALVES]
    return np.array([*seen, True])


def _fused_embedding(known: RememberedObject, measured: Measurement, min_cosine: float) -> np.ndarray:
    length = math.sqrt(known.embedding_sum @ known.embedding_sum)
    kept = known.embedding_sum if length <= _MOST_LOOKS else known.embedding_sum * (_MOST_LOOKS / length)
    weight = max(measured.segment.score, 0.01)
    if known.looks >= _FEW_LOOKS and float(known.embedding @ measured.embedding) < min_cosine:
        weight *= _OUTLIER
    return (kept + weight * measured.embedding).astype(np.float32)


def _counted(names: Mapping[str, NameCount], name: str, score: float) -> Mapping[str, NameCount]:
    if not name:
        return names
    own = names.get(name, NameCount())
    return _limited({**names, name: NameCount(own.looks + 1, own.score_sum + score)})


def _limited(names: Mapping[str, NameCount]) -> Mapping[str, NameCount]:
    if len(names) <= _MOST_NAMES:
        return names
    return dict(sorted(names.items(), key=lambda item: -item[1].score_sum)[:_MOST_NAMES])


def _view(measured: Measurement, observation: Observation) -> View:
    pixels = observation.camera.width * observation.camera.height
    size = min(math.sqrt(measured.segment.area / pixels) / 0.25, 1.0)
    return View(
        stamp=observation.stamp,
        camera_name=observation.camera_name,
        map_from_camera=np.array(observation.map_from_camera, np.float64),
        distance=measured.distance,
        quality=measured.segment.score * size * (0.3 if measured.segment.cut else 1.0),
        embedding=measured.embedding.astype(np.float16),
    )


def _with_view(
    known: RememberedObject, view: View, measured: Measurement, observation: Observation, settings: MemorySettings
) -> tuple[tuple[View, ...], bytes]:
    """The views and the picture of the best one, after a further view."""
    same = [item for item in known.views if _is_same_side(item, view, known.position)]
    if any(view.quality < _CLEARLY_BETTER * item.quality for item in same):
        return known.views, known.crop
    views = _best_of((*(item for item in known.views if item not in same), view))
    if views[0] is not view:
        return views, known.crop
    return views, crop_of(observation.image, measured.segment.box, settings.crop_side) or known.crop


def _best_of(views: tuple[View, ...]) -> tuple[View, ...]:
    return tuple(sorted(views, key=lambda item: -item.quality)[:MAX_VIEWS])


def _is_same_side(first: View, second: View, position: np.ndarray) -> bool:
    rays = [position - view.map_from_camera[:3, 3] for view in (first, second)]
    lengths = [math.sqrt(ray @ ray) for ray in rays]
    return min(lengths) == 0 or float(rays[0] @ rays[1]) >= _SAME_SIDE * lengths[0] * lengths[1]


def _is_approach(view: View, settings: MemorySettings) -> bool:
    return settings.approach_near <= view.distance <= settings.approach_far


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    half: np.ndarray = (matrix + matrix.T) / 2
    return half
