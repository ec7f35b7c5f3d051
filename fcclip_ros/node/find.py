"""The services `~/find` and `~/embed_text`: words against what the camera sees, and words as vectors."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

import fcclip_ros.action as action
import fcclip_ros.srv as srv
from fcclip_core.errors import FcclipError, SettingsError, VocabularyError
from fcclip_core.segments.finding import Found, Query
from fcclip_core.vocabulary.classes import VocabularyClass
from fcclip_ros.compat import result_of
from fcclip_ros.conversions.frame import LabeledFrame
from fcclip_ros.conversions.messages import fill_found
from fcclip_ros.conversions.messages_3d import fill_places
from fcclip_ros.node.camera import Camera
from fcclip_ros.node.deadlines import MAX_SECONDS, Deadlines
from fcclip_ros.node.pipeline import Pipeline
from fcclip_ros.node.search import FrameCallback, PendingQuery, Waiting
from fcclip_ros.qos import REQUESTS

MAX_WORDS = 1000
"""Words of one query, those of `against` included: each is a class that every segment is held against."""

MAX_NAMES = 10_000
"""Names that one request may have embedded."""

MAX_FRESH = 64
"""Requests that may wait for a fresh picture at the same time: each may cost one labeling of the next frame."""


@dataclass(frozen=True)
class Access:
    """What searching asks of the node; each may be called in the executor.

    Attributes:
        pipeline: The threads; FcclipError while the node is not configured.
        camera: A camera by its name; the first for an empty one. FcclipError for one that does not exist.
        refuse: Counts and logs a request that cannot be served, for its camera or all; returns what to answer.
        embedding_type: What segments hold of their embeddings.
        deadlines: Of those who wait.
    """

    pipeline: Callable[[], Pipeline]
    camera: Callable[[str], Camera]
    refuse: Callable[[str, BaseException, Camera | None], str]
    embedding_type: Callable[[], str]
    deadlines: Deadlines = field(default_factory=Deadlines)

    def watch(self, camera: Camera, query: Query, look: FrameCallback) -> PendingQuery:
        """Looks at a camera's next frames once the words are known, and until the watch ends."""
        pipeline, watch = self.pipeline(), PendingQuery(query, look)

        def check(ready: Future) -> None:
            if ready.cancelled():
                watch.fail(FcclipError("the node is being shut down or cleaned up"))
            elif (error := ready.exception()) is not None:
                watch.fail(error)

        words = pipeline.after_text(query.names, lambda: camera.search.add(watch))
        words.add_done_callback(check)
        # Whoever gave up needs no words.
        watch.future.add_done_callback(lambda _: words.cancel())
        return watch

    def fill(
        self,
        response: srv.Find.Response | action.WaitFor.Result,
        request: srv.Find.Request | action.WaitFor.Goal,
        frame: LabeledFrame,
        found: Sequence[Found],
    ) -> None:
        """Puts what was found with the score that was asked for into an answer; on the inference thread."""
        kept = [item for item in found if item.score >= request.minimum_score]
        kept = kept[: request.limit] if request.limit else kept
        fill_found(response, frame, kept, self.embedding_type())
        if kept and frame.depth is not None:
            fill_places(response.found, _with_found(frame, kept))


class FindServices:
    """Serves `~/find` and `~/embed_text` beside the stream."""

    def __init__(self, node: Node, access: Access) -> None:
        """Makes the services."""
        self._node = node
        self._access = access
        self._fresh = Waiting("requests for a fresh picture", MAX_FRESH)
        # Reentrant, because the callbacks wait for other threads without holding up the executor.
        group = ReentrantCallbackGroup()
        node.create_service(srv.Find, "~/find", self._on_find, qos_profile=REQUESTS, callback_group=group)
        node.create_service(
            srv.EmbedText, "~/embed_text", self._on_embed_text, qos_profile=REQUESTS, callback_group=group
        )

    async def _on_find(self, request: srv.Find.Request, response: srv.Find.Response) -> srv.Find.Response:
        def look(frame: LabeledFrame, found: Sequence[Found]) -> srv.Find.Response:
            answer = srv.Find.Response(success=True, best_score=best_score(found))
            self._access.fill(answer, request, frame, found)
            return answer

        camera: Camera | None = None
        try:
            camera = self._access.camera(request.camera)
            query = checked_query(request)
            if request.fresh:
                watch = self._access.watch(camera, query, look)
                late = FcclipError(
                    f"no picture was labeled within {request.timeout:g} s; see /diagnostics: does the camera publish, "
                    "is inference enabled, does a frame take longer?"
                )
                limit = self._access.deadlines.within(request.timeout, lambda: watch.fail(late))
                with self._fresh.admitted(watch), limit:
                    return await result_of(watch.future, self._node.executor)
            search = camera.search
            seen = self._access.pipeline().with_text(query.names, lambda: search.in_newest(query, look))
            return await result_of(seen, self._node.executor)
        except Exception as error:
            response.message = self._access.refuse("nothing was looked for", error, camera)
            return response

    async def _on_embed_text(
        self, request: srv.EmbedText.Request, response: srv.EmbedText.Response
    ) -> srv.EmbedText.Response:
        try:
            names = checked_names(request.names)
            embedded = await result_of(self._access.pipeline().embed_text(names), self._node.executor)
        except Exception as error:
            response.message = self._access.refuse("text not embedded", error, None)
            return response
        response.success = True
        response.dimension = embedded.rows.shape[1]
        response.embeddings = array("f", embedded.rows.tobytes())
        response.logit_scale = embedded.logit_scale
        response.model = embedded.model
        return response


def checked_query(request: srv.Find.Request | action.WaitFor.Goal) -> Query:
    """What a request looks for.

    Raises:
        VocabularyError: No word, too many, or one that cannot be used.
        SettingsError: `minimum_score` or `timeout` lies outside its range.
    """
    count = len(request.words) + len(request.distractors)
    query = Query.of(request.words, request.distractors) if count <= MAX_WORDS else None
    if query is None or len(query.names) > MAX_WORDS:
        count = len(query.names) if query else count
        raise VocabularyError(
            f"words and against have {count:,} words; at most {MAX_WORDS:,} can be looked for at once"
        )
    if not 0.0 <= request.minimum_score <= 1.0:
        raise SettingsError(f"minimum_score is {request.minimum_score:g}; it must be between 0 and 1")
    if not (math.isfinite(request.timeout) and request.timeout >= 0.0):
        raise SettingsError(f"timeout is {request.timeout:g}; it must be a number of seconds, 0 or more")
    if request.timeout > MAX_SECONDS:
        raise SettingsError(f"timeout is {request.timeout:g} s; it may be {MAX_SECONDS:,.0f} s at most, a day")
    return query


def checked_names(names: Sequence[str]) -> list[str]:
    """Names to embed.

    Raises:
        VocabularyError: None, too many, or one that cannot be used.
    """
    if not names:
        raise VocabularyError("there is no name to embed; give at least one")
    if len(names) > MAX_NAMES:
        raise VocabularyError(f"there are {len(names):,} names to embed; ask for at most {MAX_NAMES:,} at once")
    for name in names:
        VocabularyClass((name,))
    return list(names)


def best_score(found: Sequence[Found]) -> float:
    """Score of the best segment, 0 if there is none."""
    return found[0].score if found else 0.0


def _with_found(frame: LabeledFrame, found: Sequence[Found]) -> LabeledFrame:
    """The frame with what was found as its result; ids are 1, 2, ... in the order of `found`."""
    segment_map: np.ndarray = np.zeros(frame.result.segment_map.shape, np.int32)
    for number, item in enumerate(found, 1):
        x_min, y_min, x_max, y_max = item.segment.box
        segment_map[y_min:y_max, x_min:x_max][item.mask] = number
    segments = [replace(item.segment, id=number) for number, item in enumerate(found, 1)]
    return replace(frame, result=replace(frame.result, segment_map=segment_map, segments=segments))
