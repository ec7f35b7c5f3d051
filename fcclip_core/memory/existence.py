"""Does an object still exist? Log-odds that looks raise, and looks through its place lower.

Rays of the depth image through the inner part of an object's box tell: one that ends in front of the box is blocked,
one that ends inside shows a surface there, one that goes on behind the box's middle by more than the noise passes
through. Places that are blocked, out of range, out of view or without depth say nothing.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

import cv2
import numpy as np

from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.memory.objects import RememberedObject, State
from fcclip_core.memory.observation import Observation
from fcclip_core.memory.settings import MemorySettings
from fcclip_core.memory.table import Places

_SURE = 0.8
"""Score from which a segment counts in full: segments that show no thing have lower ones, and so have small ones."""

_INNER = 0.5
"""Share of the box's sides within which rays are tested; labels and boxes are least sure at the rim."""

_STEPS = 3
"""Points tested along each side of the box: 27 in all."""

_MIN_VISIBLE = 0.5
"""Smallest share of an object's rays with known depth, in the image and in range, for a look to count."""

_MIN_THROUGH = 0.75
"""Smallest share of the rays that pass for the place to be empty; and of those that end inside for a surface."""

_BEHIND = 0.5
"""Where a ray must end to pass: beyond this share of the way from the middle of its path in the box to its end."""

_DEVIATIONS = 2.5
"""Standard deviations of depth and position by which it must also be behind the middle."""

_MARGIN = 0.05
"""Meters in front of the box at which a ray counts as blocked."""


class Look(IntEnum):
    """What the depth image shows at an object's place."""

    NOTHING = 0
    """Blocked, out of range, out of view, or without depth."""
    SURFACE = 1
    """Something is there."""
    THROUGH = 2
    """Nothing is there: rays pass through it."""
    OTHER = 3
    """Something is there that is another object."""


def seen_again(known: RememberedObject, score: float, settings: MemorySettings) -> RememberedObject:
    """The object after a segment matched it that has a class of this probability."""
    gain = settings.hit * min(score / _SURE, 1.0)
    log_odds = min(max(known.log_odds, settings.gone_log_odds) + gain, settings.max_log_odds)
    return _judged(replace(known, log_odds=log_odds), settings)


def not_seen(known: RememberedObject, look: Look, settings: MemorySettings) -> RememberedObject:
    """The object after a look at its place in which no segment matched it."""
    if look is Look.THROUGH:
        lost = settings.absence
    elif look is Look.OTHER:
        lost = settings.displaced
    elif look is Look.SURFACE and known.state is State.TENTATIVE:
        lost = settings.miss
    else:
        return known
    floor = 2 * settings.gone_log_odds - settings.max_log_odds
    return _judged(replace(known, log_odds=max(known.log_odds - lost, floor)), settings)


def look_at(places: Places, observation: Observation, settings: MemorySettings) -> list[Look]:
    """What the depth image shows at each place."""
    if observation.depth is None or not len(places):
        return [Look.NOTHING] * len(places)
    center, half = places.centers, np.maximum(places.extents / 2, 0.005)
    steps = np.linspace(-_INNER, _INNER, _STEPS)
    lattice = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    pose = observation.map_from_camera
    rays = (center - pose[:3, 3])[:, None] + half[:, None] * lattice
    in_camera = rays @ pose[:3, :3]
    z = in_camera[..., 2]
    known, depth = _depth_at(in_camera, observation.camera, observation.depth)
    # A ray through a point ends at this multiple of the way to it.
    with np.errstate(divide="ignore", invalid="ignore"):
        end = np.where(known, depth / z, np.nan)
        into, out = _crossing(rays, center - pose[:3, 3], half)
    spread = _deviation(places.covariances, rays, z, observation, settings) / np.maximum(z, 1e-6)
    middle = (into + out) / 2
    through = end - middle > np.maximum(_BEHIND * (out - middle), _DEVIATIONS * spread)
    blocked = end < into - _MARGIN / np.maximum(z, 1e-6) - spread
    return [
        _verdict(*row)
        for row in zip(known.mean(1), known.sum(1), (through & known).sum(1), (blocked & known).sum(1), strict=True)
    ]


def _verdict(visible: float, known: int, through: int, blocked: int) -> Look:
    if visible < _MIN_VISIBLE:
        return Look.NOTHING
    if through >= _MIN_THROUGH * known:
        return Look.THROUGH
    return Look.SURFACE if known - through - blocked >= _MIN_THROUGH * known else Look.NOTHING


def _judged(known: RememberedObject, settings: MemorySettings) -> RememberedObject:
    """The object in the state that its looks and log-odds say."""
    if known.log_odds <= settings.gone_log_odds:
        # Nobody was told of an object that was never confirmed: the memory drops it.
        return replace(known, state=State.GONE)
    ready = known.looks >= settings.confirm_looks and known.log_odds >= settings.confirm_log_odds
    if ready and known.state is not State.CONFIRMED:
        return replace(known, state=State.CONFIRMED)
    return known


def _depth_at(points: np.ndarray, camera: PinholeCamera, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether depth is known where points `(..., 3)` of the camera's frame are seen, and the depth there."""
    ahead = points[..., 2] > 0.05
    safe = np.where(ahead[..., None], points, (0.0, 0.0, 1.0))
    if camera.distortion:
        matrix = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
        flat = safe.reshape(-1, 1, 3)
        pixels = cv2.projectPoints(flat, np.zeros(3), np.zeros(3), matrix, np.array(camera.distortion))[0]
        pixels = pixels.reshape(*safe.shape[:-1], 2)
    else:
        pixels = safe[..., :2] / safe[..., 2:] * (camera.fx, camera.fy) + (camera.cx, camera.cy)
    with np.errstate(invalid="ignore"):
        inside = ahead & (np.abs(pixels) < 1e6).all(-1)
    columns, rows = (
        np.rint(np.where(inside[..., None], pixels, -1)).astype(np.int64).transpose(-1, *range(points.ndim - 1))
    )
    inside &= (columns >= 0) & (rows >= 0) & (columns < camera.width) & (rows < camera.height)
    values = depth[np.where(inside, rows, 0), np.where(inside, columns, 0)]
    return inside & (values > 0), values  # NaN is not above 0


def _crossing(rays: np.ndarray, center: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays `(M, K, 3)` enter and leave their box, as multiples of the way to their point: `(M, K)` each."""
    first, second = (((center + sign * half)[:, None] / rays) for sign in (-1, 1))
    # A ray along a face has no crossing with it, and 0 / 0 says nothing.
    into = np.nan_to_num(np.minimum(first, second), nan=-np.inf).max(-1)
    out = np.nan_to_num(np.maximum(first, second), nan=np.inf, posinf=np.inf).min(-1)
    return into, out


def _deviation(
    covariances: np.ndarray,
    rays: np.ndarray,
    z: np.ndarray,
    observation: Observation,
    settings: MemorySettings,
) -> np.ndarray:
    """Standard deviation of how far behind a point a ray ends, meters: of depth, pose and the object's place."""
    lengths = np.maximum(np.linalg.norm(rays, axis=-1), 1e-6)
    directions = rays / lengths[..., None]
    spread = covariances + observation.pose_covariance[:3, :3]
    place = np.einsum("mki,mij,mkj->mk", directions, spread, directions)
    deviation: np.ndarray = np.sqrt(place + (settings.depth_noise * z**2) ** 2)
    return deviation
