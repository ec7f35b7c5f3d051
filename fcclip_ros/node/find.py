"""The services `~/find`, open-vocabulary queries on camera frames, and `~/embed_text`, CLIP text embeddings."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

import fcclip_ros.action as action
import fcclip_ros.srv as srv
from fcclip_core.errors import FcclipError, SettingsError, VocabularyError
from fcclip_core.segments.finding import Found
from fcclip_core.vocabulary.classes import VocabularyClass
from fcclip_core.vocabulary.query import Query
from fcclip_ros.compat import result_of
from fcclip_ros.conversions.frame import LabeledFrame
from fcclip_ros.conversions.messages import fill_found
from fcclip_ros.conversions.messages_3d import fill_geometry
from fcclip_ros.node.camera import Camera
from fcclip_ros.node.deadlines import MAX_SECONDS, Deadlines
from fcclip_ros.node.pipeline import Pipeline
from fcclip_ros.node.search import FrameCallback, PendingLimit, PendingQuery
from fcclip_ros.qos import REQUESTS

MAX_WORDS = 1000
"""Words of one query, its distractors included: each is a class that every segment is scored against."""

MAX_NAMES = 10_000
"""Names per request of `~/embed_text`."""

MAX_FRESH = 64
"""Requests that may be pending for a fresh frame: each may decode the next frame once more."""


@dataclass(frozen=True)
class Access:
    """What queries need from the node; each function may be called in the executor.

    Attributes:
        pipeline: Returns the pipeline; FcclipError while the node is not configured.
        camera: Returns a camera by name, the first one for an empty name; FcclipError for an unknown name.
        refuse: Counts and logs a rejected request, for one camera or all; returns the reason for the response.
        embedding_type: Returns the type of the segments' embeddings, one of `EMBEDDING_TYPES`.
        deadlines: Timeouts of pending requests.
    """

    pipeline: Callable[[], Pipeline]
    camera: Callable[[str], Camera]
    refuse: Callable[[str, BaseException, Camera | None], str]
    embedding_type: Callable[[], str]
    deadlines: Deadlines = field(default_factory=Deadlines)

    def start_query(self, camera: Camera, query: Query, callback: FrameCallback) -> PendingQuery:
        """Encodes the words of a query in the background, then evaluates it on the camera's next frames."""
        pipeline, pending = self.pipeline(), PendingQuery(query, callback)

        def check(encoded: Future[Any]) -> None:
            if encoded.cancelled():
                pending.fail(FcclipError("the node is being shut down or cleaned up"))
            elif (error := encoded.exception()) is not None:
                pending.fail(error)

        encoding = pipeline.after_text(query.names, lambda: camera.search.add(pending))
        encoding.add_done_callback(check)
        # A query that has ended needs no text embeddings.
        pending.future.add_done_callback(lambda _: encoding.cancel())
        return pending

    def fill(
        self,
        response: srv.Find.Response | action.WaitFor.Result,
        request: srv.Find.Request | action.WaitFor.Goal,
        frame: LabeledFrame,
        found: Sequence[Found],
    ) -> None:
        """Fills a response with the matches that reach the requested score; on the inference thread."""
        kept = [item for item in found if item.score >= request.minimum_score]
        kept = kept[: request.limit] if request.limit else kept
        fill_found(response, frame, kept, self.embedding_type())
        if kept and frame.depth is not None:
            fill_geometry(response.found, _with_matches(frame, kept))


class FindServices:
    """Serves `~/find` and `~/embed_text` while the cameras are streaming."""

    def __init__(self, node: Node, access: Access) -> None:
        """Creates the services."""
        self._node = node
        self._access = access
        self._fresh = PendingLimit("requests for a fresh frame", MAX_FRESH)
        # Reentrant: the callbacks await other threads without blocking the executor.
        group = ReentrantCallbackGroup()
        node.create_service(srv.Find, "~/find", self._on_find, qos_profile=REQUESTS, callback_group=group)
        node.create_service(
            srv.EmbedText, "~/embed_text", self._on_embed_text, qos_profile=REQUESTS, callback_group=group
        )

    async def _on_find(self, request: srv.Find.Request, response: srv.Find.Response) -> srv.Find.Response:
        def respond(frame: LabeledFrame, found: Sequence[Found]) -> srv.Find.Response:
            filled = srv.Find.Response(success=True, best_score=best_score(found))
            self._access.fill(filled, request, frame, found)
            return filled

        camera: Camera | None = None
        try:
            camera = self._access.camera(request.camera)
            query = checked_query(request)
            if request.fresh:
                pending = self._access.start_query(camera, query, respond)
                late = FcclipError(
                    f"no frame was labeled within {request.timeout:g} s; check /diagnostics: is the camera publishing, "
                    "is inference enabled, does a frame take longer than the timeout?"
                )
                limit = self._access.deadlines.within(request.timeout, lambda: pending.fail(late))
                with self._fresh.admitted(pending), limit:
                    return await result_of(pending.future, self._node.executor)
            search = camera.search
            outcome = self._access.pipeline().with_text(query.names, lambda: search.in_latest(query, respond))
            return await result_of(outcome, self._node.executor)
        except Exception as error:
            response.message = self._access.refuse("find: request rejected", error, camera)
            return response

    async def _on_embed_text(
        self, request: srv.EmbedText.Request, response: srv.EmbedText.Response
    ) -> srv.EmbedText.Response:
        try:
            names = checked_names(request.names)
            embedded = await result_of(self._access.pipeline().embed_text(names), self._node.executor)
        except Exception as error:
            response.message = self._access.refuse("embed_text: request rejected", error, None)
            return response
        response.success = True
        response.dimension = embedded.rows.shape[1]
        response.embeddings = array("f", embedded.rows.tobytes())
        response.logit_scale = embedded.logit_scale
        response.model = embedded.model
        return response


def checked_query(request: srv.Find.Request | action.WaitFor.Goal) -> Query:
    """Validates the query of a request.

    Raises:
        VocabularyError: No word, too many words, or an invalid one.
        SettingsError: `minimum_score` or `timeout` is out of range.
    """
    count = len(request.words) + len(request.distractors)
    query = Query.of(request.words, request.distractors) if count <= MAX_WORDS else None
    if query is None or len(query.names) > MAX_WORDS:
        count = len(query.names) if query else count
        raise VocabularyError(f"words and distractors have {count:,} words; expected at most {MAX_WORDS:,} per request")
    if not 0.0 <= request.minimum_score <= 1.0:
        raise SettingsError(f"minimum_score is {request.minimum_score:g}; it must be between 0 and 1")
    if not (math.isfinite(request.timeout) and request.timeout >= 0.0):
        raise SettingsError(f"timeout is {request.timeout:g}; it must be a number of seconds, at least 0")
    if request.timeout > MAX_SECONDS:
        raise SettingsError(f"timeout is {request.timeout:g} s; it must be at most {MAX_SECONDS:,.0f} s, one day")
    return query


def checked_names(names: Sequence[str]) -> list[str]:
    """Validates the names to embed.

    Raises:
        VocabularyError: No name, too many names, or an invalid one.
    """
    if not names:
        raise VocabularyError("there is no name to embed; give at least one")
    if len(names) > MAX_NAMES:
        raise VocabularyError(f"there are {len(names):,} names to embed; send at most {MAX_NAMES:,} per request")
    for name in names:
        VocabularyClass((name,))
    return list(names)


def best_score(found: Sequence[Found]) -> float:
    """Score of the best match, 0 if there is none."""
    return found[0].score if found else 0.0


def _with_matches(frame: LabeledFrame, found: Sequence[Found]) -> LabeledFrame:
    """The frame with the matches as its segments; their ids are 1, 2, ... in the order of `found`."""
    segment_map: np.ndarray = np.zeros(frame.result.segment_map.shape, np.int32)
    for number, item in enumerate(found, 1):
        x_min, y_min, x_max, y_max = item.segment.box
        segment_map[y_min:y_max, x_min:x_max][item.mask] = number
    segments = [replace(item.segment, id=number) for number, item in enumerate(found, 1)]
    return replace(frame, result=replace(frame.result, segment_map=segment_map, segments=segments))
