"""The action `~/wait_for`: waits until an object is detected, or answers with where it was seen before."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from fcclip_core.errors import FcclipError, SettingsError
from fcclip_core.segments.finding import Found
from fcclip_ros.action import WaitFor
from fcclip_ros.compat import result_of
from fcclip_ros.conversions.frame import LabeledFrame
from fcclip_ros.node.camera import Camera
from fcclip_ros.node.find import Access, best_score, checked_query
from fcclip_ros.node.remembered import MemoryClient, result_of_answer
from fcclip_ros.node.search import Evicted, Pending, PendingLimit
from fcclip_ros.qos import REQUESTS

MAX_GOALS = 16
"""Goals that may be active at the same time: each may decode every frame once more."""

_RESULT_TIMEOUT = 60
"""Seconds that the result of a goal is kept for a client that requests it late."""

_MEMORY_TIME = 10.0
"""Seconds in which the memory must have answered; it may have to ask for the embeddings of new words."""

_CLIENT_CHECK_PERIOD = 1.0
"""Seconds between two checks of the feedback topic's subscriptions."""

_DISCOVERY_TIME = 2.0
"""Seconds after a goal was accepted in which its client's feedback subscription may be discovered."""


class _Canceled(Exception):
    """The client canceled the goal."""


class _TimedOut(FcclipError):
    """Nothing was detected in time."""


class _ClientGone(FcclipError):
    """No client that may have sent the goal is left."""


@dataclass
class _Goal:
    """An active goal.

    Attributes:
        pending: Its query, or its question to the memory.
        accepted: Monotonic time.
        subscribers: GIDs of the feedback subscriptions when it was accepted, its client's among them.
    """

    pending: Pending
    accepted: float = field(default_factory=time.monotonic)
    subscribers: set[bytes] = field(default_factory=set)


class WaitForAction:
    """Serves `~/wait_for`.

    Goals run concurrently. Each ends by itself: succeeded, timed out, canceled, aborted because the node was
    deactivated or the client is gone, or dropped because too many goals are active.
    """

    def __init__(self, node: Node, access: Access, memory: MemoryClient) -> None:
        """Creates the action server."""
        self._node = node
        self._access = access
        self._memory = memory
        self._goals: dict[bytes, _Goal] = {}
        self._limit = PendingLimit("goals", MAX_GOALS)
        self._server = ActionServer(
            node,
            WaitFor,
            "~/wait_for",
            self._execute,
            cancel_callback=self._on_cancel,
            callback_group=ReentrantCallbackGroup(),
            goal_service_qos_profile=REQUESTS,
            result_service_qos_profile=REQUESTS,
            cancel_service_qos_profile=REQUESTS,
            result_timeout=_RESULT_TIMEOUT,
        )
        self._feedback_topic = "~/wait_for/_action/feedback"
        self._timer = node.create_timer(
            _CLIENT_CHECK_PERIOD, self._abort_orphans, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def destroy(self) -> None:
        """Destroys the action server."""
        self._server.destroy()

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        active = self._goals.get(bytes(goal.goal_id.uuid))
        if active is not None:
            active.pending.fail(_Canceled())
        return CancelResponse.ACCEPT

    def _abort_orphans(self) -> None:
        """Aborts the goals whose clients are gone; an action client subscribes to the feedback topic.

        A goal does not name its client, so it is orphaned when none of the subscriptions of its first seconds is left.
        """
        if not self._goals:
            return
        present = {
            bytes(info.endpoint_gid) for info in self._node.get_subscriptions_info_by_topic(self._feedback_topic)
        }
        now = time.monotonic()
        for goal in list(self._goals.values()):
            if now < goal.accepted + _DISCOVERY_TIME:
                goal.subscribers |= present
            elif not goal.subscribers & present:
                goal.pending.fail(_ClientGone("the client that sent the goal is gone"))

    async def _execute(self, goal: ServerGoalHandle) -> WaitFor.Result:
        request, feedback, started = goal.request, WaitFor.Feedback(), time.monotonic()

        def check(frame: LabeledFrame, found: Sequence[Found]) -> WaitFor.Result | None:
            feedback.frames += 1
            feedback.best_score = max(feedback.best_score, best_score(found))
            if not found or found[0].score < request.minimum_score:
                goal.publish_feedback(feedback)
                return None
            detected = WaitFor.Result(success=True)
            self._access.fill(detected, request, frame, found)
            return detected

        camera: Camera | None = None
        try:
            camera, query = self._access.camera(request.camera), checked_query(request)
            result = await self._remembered(goal) if request.from_memory else None
            if result is None:
                pending = self._access.start_query(camera, query, check)
                result = await self._end_of(goal, pending, started)
            else:
                feedback.best_score = result.best_score
            goal.succeed()
        except _Canceled:
            result = WaitFor.Result(message="canceled")
            goal.canceled()
        except (_TimedOut, _ClientGone, Evicted) as error:
            # Neither the node nor the request is at fault: not counted as a rejected request.
            result = WaitFor.Result(message=str(error))
            goal.abort()
            if not isinstance(error, _TimedOut):
                self._node.get_logger().warning(f"wait_for: goal aborted: {error}")
        except Exception as error:
            result = WaitFor.Result(message=self._access.refuse("wait_for: goal rejected", error, camera))
            goal.abort()
        result.best_score, result.frames = feedback.best_score, feedback.frames
        return result

    async def _remembered(self, goal: ServerGoalHandle) -> WaitFor.Result | None:
        """The answer of the memory, None if it knows no match."""
        request, started = goal.request, time.monotonic()
        if not (math.isfinite(request.max_age) and request.max_age >= 0):
            raise SettingsError(f"max_age is {request.max_age:g}; it must be a number of seconds, at least 0")
        pending = self._memory.ask(request, min(request.timeout or _MEMORY_TIME, _MEMORY_TIME))
        late = FcclipError(f"{self._memory.service} did not answer within {_MEMORY_TIME:g} s; is the memory active?")
        with self._access.deadlines.within(_MEMORY_TIME, lambda: pending.fail(late)):
            return result_of_answer(await self._end_of(goal, pending, started))

    async def _end_of(self, goal: ServerGoalHandle, pending: Pending, started: float) -> Any:
        """Waits for a query or a question of a goal that was accepted at a monotonic time."""
        with self._limit.admitted(pending), self._active(goal, pending), self._timeout(pending, goal, started):
            return await result_of(pending.future, self._node.executor)

    @contextlib.contextmanager
    def _active(self, goal: ServerGoalHandle, pending: Pending) -> Iterator[None]:
        """Registers a goal for cancel requests and the check of its client."""
        key = bytes(goal.goal_id.uuid)
        self._goals[key] = _Goal(pending)
        if goal.is_cancel_requested:  # Before it was registered.
            pending.fail(_Canceled())
        try:
            yield
        finally:
            del self._goals[key]

    def _timeout(
        self, pending: Pending, goal: ServerGoalHandle, started: float
    ) -> contextlib.AbstractContextManager[None]:
        seconds = goal.request.timeout
        if not seconds:
            return contextlib.nullcontext()
        late = _TimedOut(f"not detected within {seconds:g} s")
        left = max(started + seconds - time.monotonic(), 0.0)
        return self._access.deadlines.within(left, lambda: pending.fail(late))
