"""Tracking: an object keeps its segment id and its class from frame to frame.

Things are matched by mask overlap and embedding similarity, and classified by voting over all frames in which they were
seen (`voting`). Stuff needs neither, because a frame has at most one segment per stuff class.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from fcclip_core.results import Evidence, Label, PanopticResult, Segment
from fcclip_core.segments.voting import Votes, elect

LAST_ID = 65_535
"""Largest id: ids are 16-bit in label images, and 0 means none."""

_SIDE = 192
"""Masks are compared on a square grid over the whole frame, so that the frame size may change."""

_RECENT = 2
"""Frames that a thing may be missing while its last mask is still used for matching; later the camera has moved."""

_OVERLAP = 0.5
"""Intersection over union at which two masks are the same thing, regardless of class."""

_TOUCH = 0.2
"""Intersection over union at which two masks are the same thing if class or embedding agree."""

_MIN_COSINE, _MIN_COSINE_OTHER_CLASS = 0.8, 0.9
"""Smallest cosine similarity for matching non-overlapping things of the same class, and of different classes."""

_MIN_COSINE_TOUCHING = 0.5

_MAX_MOTION = 0.15
"""Largest motion between two frames as a fraction of the frame's sides, in addition to the thing's own size."""

_FRESHNESS = 0.3
"""Weight of the newest embedding in a track's average."""

Pixels = tuple[np.ndarray, ...]
"""Rows and columns of a thing's cells on the grid."""

_logger = logging.getLogger(__name__)


@dataclass
class _Track:
    """A tracked thing; its class id is that of its newest frame, so that votes do not affect matching."""

    id: int
    class_id: int
    embedding: np.ndarray
    pixels: Pixels
    votes: Votes = field(default_factory=Votes)
    missed: int = 0

    @property
    def middle(self) -> np.ndarray:
        rows, columns = self.pixels
        return np.array((rows.mean(), columns.mean()))

    @property
    def extent(self) -> np.ndarray:
        return np.array([np.ptp(axis) + 1 for axis in self.pixels])


class Tracker:
    """Assigns persistent ids to the segments of consecutive frames. For one camera; not thread-safe.

    An id is reused only after all 65,535 ids were assigned.
    """

    def __init__(self, lost_frames: int = 30, *, votes: bool = True) -> None:
        """Starts without tracks.

        Args:
            lost_frames: Number of frames after which a thing that was not seen is dropped; if it returns, it is new.
            votes: Whether a thing's class and score are voted over all its frames, instead of each frame's own.
        """
        self.lost_frames = lost_frames
        self._votes = votes
        self._words: tuple[int, tuple[str, ...]] | None = None
        self._tracks: list[_Track] = []
        self._stuff: dict[int, int] = {}
        self._next_id = 1

    def update(self, result: PanopticResult) -> PanopticResult:
        """Processes the next frame and returns it with persistent ids, both in the map and in the segments.

        Things get their voted classes, unless the result has no evidence to vote with.
        """
        grid = _on_grid(result.segment_map)
        things = [segment for segment in result.segments if segment.is_thing]
        pixels = [np.nonzero(grid == segment.id) for segment in things]
        # Segments too small for the grid are represented by the center of their box.
        pixels = [
            where if len(where[0]) else _middle_of(segment, result.segment_map.shape)
            for segment, where in zip(things, pixels, strict=True)
        ]
        track_of = self._matched(things, pixels, grid)
        tracks = []
        for index, segment in enumerate(things):
            track = track_of.get(index)
            if track is None:
                track = _Track(self._new_id(), segment.class_id, segment.embedding, pixels[index])
                self._tracks.append(track)
            _refresh(track, segment, pixels[index])
            tracks.append(track)
        ids = {segment.id: track.id for segment, track in zip(things, tracks, strict=True)}
        for segment in result.segments:
            if not segment.is_thing:
                ids[segment.id] = self._id_of_stuff(segment.class_id)
        seen = set(ids.values())
        for track in self._tracks:
            track.missed = 0 if track.id in seen else track.missed + 1
        self._tracks = [track for track in self._tracks if track.missed <= self.lost_frames]
        if self._votes and tracks and result.evidence is not None:
            result = self._voted(result, result.evidence, tracks)
        return result.with_ids([ids[segment.id] for segment in result.segments])

    def _voted(self, result: PanopticResult, evidence: Evidence, tracks: Sequence[_Track]) -> PanopticResult:
        """The result with the voted classes of its things; `tracks` are in the order of the things."""
        words = (result.vocabulary_version, evidence.names)
        if words != self._words:
            # Probabilities of another vocabulary are not comparable.
            for track in self._tracks:
                track.votes = Votes()
            self._words = words
        rows = result.probabilities()[[segment.is_thing for segment in result.segments]]
        for track, row in zip(tracks, rows, strict=True):
            track.votes.cast(row)
        may_win = np.array(evidence.is_thing)
        if evidence.is_distractor:
            may_win &= ~np.array(evidence.is_distractor)
        winners, scores = elect(np.stack([track.votes.mean for track in tracks]), may_win)
        labels = (
            Label(evidence.class_ids[index], evidence.names[index], float(score))
            for index, score in zip(winners, scores, strict=True)
        )
        segments = [segment.voted(next(labels)) if segment.is_thing else segment for segment in result.segments]
        return replace(result, segments=segments)

    def _matched(self, things: Sequence[Segment], pixels: Sequence[Pixels], grid: np.ndarray) -> dict[int, _Track]:
        """Index of a thing -> its matching track."""
        if not things or not self._tracks:
            return {}
        affinity = np.array([_affinities(track, things, pixels, grid) for track in self._tracks])
        rows, columns = linear_sum_assignment(affinity, maximize=True)
        return {
            int(column): self._tracks[row]
            for row, column in zip(rows, columns, strict=True)
            if affinity[row, column] > 0
        }

    def _id_of_stuff(self, class_id: int) -> int:
        if class_id not in self._stuff:
            self._stuff[class_id] = self._new_id()
        return self._stuff[class_id]

    def _new_id(self) -> int:
        used = {track.id for track in self._tracks} | set(self._stuff.values())
        while self._next_id in used or self._next_id > LAST_ID:
            if self._next_id >= LAST_ID:
                _logger.warning("all %d segment ids were assigned; ids of dropped things are reused", LAST_ID)
            self._next_id = self._next_id % LAST_ID + 1
        self._next_id += 1
        return self._next_id - 1


def _on_grid(segment_map: np.ndarray) -> np.ndarray:
    """The map sampled at the centers of the grid's cells."""
    rows, columns = (((np.arange(_SIDE) + 0.5) * side / _SIDE).astype(int) for side in segment_map.shape)
    return segment_map[rows[:, None], columns]


def _middle_of(segment: Segment, shape: tuple[int, ...]) -> Pixels:
    x_min, y_min, x_max, y_max = segment.box
    row, column = (y_min + y_max) / 2 / shape[0], (x_min + x_max) / 2 / shape[1]
    return np.array([int(row * _SIDE)]), np.array([int(column * _SIDE)])


def _affinities(track: _Track, things: Sequence[Segment], pixels: Sequence[Pixels], grid: np.ndarray) -> np.ndarray:
    """Affinity of each thing to a track: 0 if they cannot match, else above 0."""
    hits = np.bincount(grid[track.pixels], minlength=max(segment.id for segment in things) + 1)
    return np.array(
        [_affinity(track, segment, where, int(hits[segment.id])) for segment, where in zip(things, pixels, strict=True)]
    )


def _affinity(track: _Track, segment: Segment, where: Pixels, both: int) -> float:
    overlap = both / (len(track.pixels[0]) + len(where[0]) - both)
    likeness = float(track.embedding @ segment.embedding)
    one_class = segment.class_id == track.class_id
    if track.missed <= _RECENT and (
        overlap >= _OVERLAP or (overlap >= _TOUCH and (one_class or likeness >= _MIN_COSINE_TOUCHING))
    ):
        return 1.0 + overlap + max(likeness, 0.0)
    middle = np.array((where[0].mean(), where[1].mean()))
    reach = _MAX_MOTION * _SIDE * (1 + track.missed) + track.extent / 2
    away = float((np.abs(middle - track.middle) / reach).max())
    if likeness < (_MIN_COSINE if one_class else _MIN_COSINE_OTHER_CLASS) or away > 1.0:
        return 0.0
    return likeness * (1.0 - 0.5 * away)


def _refresh(track: _Track, segment: Segment, pixels: Pixels) -> None:
    """Updates a track with its segment in the newest frame."""
    mixed = (1 - _FRESHNESS) * track.embedding + _FRESHNESS * segment.embedding
    length = float(np.linalg.norm(mixed))
    track.embedding = mixed / length if length > 0 else segment.embedding
    track.class_id, track.pixels = segment.class_id, pixels
