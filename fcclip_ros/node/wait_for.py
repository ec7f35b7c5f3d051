"""The action `~/wait_for`: until something is in the picture."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from fcclip_core.errors import FcclipError
from fcclip_core.segments.finding import Found
from fcclip_ros.action import WaitFor
from fcclip_ros.compat import result_of
from fcclip_ros.conversions.frame import LabeledFrame
from fcclip_ros.node.camera import Camera
from fcclip_ros.node.find import Access, best_score, checked_query
from fcclip_ros.node.search import GaveWay, PendingQuery, Waiting
from fcclip_ros.qos import REQUESTS

MAX_GOALS = 16
"""Goals that may wait at the same time: each may label every frame once more."""

_RESULT_TIMEOUT = 60
"""Seconds that the result of a goal is kept for a client that asks late."""

_LISTENERS_PERIOD = 1.0
"""Seconds between two looks at who listens."""

_INTRODUCTION = 2.0
"""Seconds after its beginning in which a goal's client may turn up as a listener."""


class _Cancelled(Exception):
    """The client wants no more."""


class _TimeIsUp(FcclipError):
    """Not found in time."""


class _Unheard(FcclipError):
    """Whoever may have sent the goal is gone."""


@dataclass
class _Goal:
    """A goal that waits.

    Attributes:
        watch: What it waits for.
        began: Monotonic time.
        listeners: Who listened to feedback when it began, its client among them.
    """

    watch: PendingQuery
    began: float = field(default_factory=time.monotonic)
    listeners: set[bytes] = field(default_factory=set)


class WaitForAction:
    """Serves `~/wait_for`.

    Goals wait side by side; each ends alone: found, late, cancelled, the node stopped, its client gone, or too many.
    """

    def __init__(self, node: Node, access: Access) -> None:
        """Makes the action server."""
        self._node = node
        self._access = access
        self._goals: dict[bytes, _Goal] = {}
        self._waiting = Waiting("goals", MAX_GOALS)
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
            _LISTENERS_PERIOD, self._end_unheard, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def destroy(self) -> None:
        """Ends the action server."""
        self._server.destroy()

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        waiting = self._goals.get(bytes(goal.goal_id.uuid))
        if waiting is not None:
            waiting.watch.fail(_Cancelled())
        return CancelResponse.ACCEPT

    def _end_unheard(self) -> None:
        """Ends the goals whose clients are gone; a client of an action listens to its feedback.

        A goal does not say whose it is, so it is taken as gone when everybody is who listened when it began.
        """
        if not self._goals:
            return
        present = {
            bytes(info.endpoint_gid) for info in self._node.get_subscriptions_info_by_topic(self._feedback_topic)
        }
        now = time.monotonic()
        for goal in list(self._goals.values()):
            if now < goal.began + _INTRODUCTION:
                goal.listeners |= present
            elif not goal.listeners & present:
                goal.watch.fail(_Unheard("the client that sent the goal is gone"))

    async def _execute(self, goal: ServerGoalHandle) -> WaitFor.Result:
        request, so_far = goal.request, WaitFor.Feedback()

        def look(frame: LabeledFrame, found: Sequence[Found]) -> WaitFor.Result | None:
            so_far.frames += 1
            so_far.best_score = max(so_far.best_score, best_score(found))
            if not found or found[0].score < request.minimum_score:
                goal.publish_feedback(so_far)
                return None
            result = WaitFor.Result(success=True)
            self._access.fill(result, request, frame, found)
            return result

        camera: Camera | None = None
        try:
            camera = self._access.camera(request.camera)
            query = checked_query(request)
            watch = self._access.watch(camera, query, look)
            with self._waiting.admitted(watch), self._kept(goal, watch), self._time_limit(watch, request.timeout):
                result = await result_of(watch.future, self._node.executor)
            goal.succeed()
        except _Cancelled:
            result = WaitFor.Result(message="cancelled")
            goal.canceled()
        except (_TimeIsUp, _Unheard, GaveWay) as error:
            # Neither the node's fault nor the request's: not counted as refused.
            result = WaitFor.Result(message=str(error))
            goal.abort()
            if not isinstance(error, _TimeIsUp):
                self._node.get_logger().warning(f"a goal of wait_for has ended: {error}")
        except Exception as error:
            result = WaitFor.Result(message=self._access.refuse("not waited for", error, camera))
            goal.abort()
        result.best_score, result.frames = so_far.best_score, so_far.frames
        return result

    @contextlib.contextmanager
    def _kept(self, goal: ServerGoalHandle, watch: PendingQuery) -> Iterator[None]:
        """Lets those who end goals find this one."""
        key = bytes(goal.goal_id.uuid)
        self._goals[key] = _Goal(watch)
        if goal.is_cancel_requested:  # Before it was there to be found.
            watch.fail(_Cancelled())
        try:
            yield
        finally:
            del self._goals[key]

    @contextlib.contextmanager
    def _time_limit(self, watch: PendingQuery, seconds: float) -> Iterator[None]:
        if not seconds:
            yield
            return
        late = _TimeIsUp(f"not found within {seconds:g} s")
        with self._access.deadlines.within(seconds, lambda: watch.fail(late)):
            yield
