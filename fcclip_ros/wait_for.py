"""The action `~/wait_for`: until something is in the picture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

from fcclip_core.errors import FcclipError
from fcclip_core.finding import Found
from fcclip_ros.action import WaitFor
from fcclip_ros.camera import Camera
from fcclip_ros.compat import result_of
from fcclip_ros.find import Access, best_score, checked_query, time_limit
from fcclip_ros.pipeline import LabelledFrame
from fcclip_ros.search import Watch

_MOST_AT_ONCE = 16
"""Goals that may wait at the same time: each labels every frame once more."""


class _Cancelled(Exception):
    """The client wants no more."""


class _TimeIsUp(FcclipError):
    """Not found in time."""


class WaitForAction:
    """Serves `~/wait_for`. Goals wait side by side; each ends alone: found, late, cancelled, or the node stopped."""

    def __init__(self, node: Node, access: Access) -> None:
        """Makes the action server."""
        self._node = node
        self._access = access
        self._watches: dict[bytes, Watch] = {}
        self._server = ActionServer(
            node,
            WaitFor,
            "~/wait_for",
            self._execute,
            cancel_callback=self._on_cancel,
            callback_group=ReentrantCallbackGroup(),
        )

    def destroy(self) -> None:
        """Ends the action server."""
        self._server.destroy()

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        watch = self._watches.get(bytes(goal.goal_id.uuid))
        if watch is not None:
            watch.fail(_Cancelled())
        return CancelResponse.ACCEPT

    async def _execute(self, goal: ServerGoalHandle) -> WaitFor.Result:
        request, so_far = goal.request, WaitFor.Feedback()

        def look(frame: LabelledFrame, found: Sequence[Found]) -> WaitFor.Result | None:
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
            if len(self._watches) >= _MOST_AT_ONCE:
                raise FcclipError(f"{_MOST_AT_ONCE} goals wait already; cancel one first")
            watch = self._access.watch(camera, query, look)
            with self._cancellable(goal, watch), _time_limit(watch, request.timeout):
                result = await result_of(watch.future, self._node.executor)
            goal.succeed()
        except _Cancelled:
            result = WaitFor.Result(message="cancelled")
            goal.canceled()
        except _TimeIsUp as error:
            # Neither the node's fault nor the request's: not counted as refused.
            result = WaitFor.Result(message=str(error))
            goal.abort()
        except Exception as error:
            result = WaitFor.Result(message=self._access.refuse("not waited for", error, camera))
            goal.abort()
        result.best_score, result.frames = so_far.best_score, so_far.frames
        return result

    @contextlib.contextmanager
    def _cancellable(self, goal: ServerGoalHandle, watch: Watch) -> Iterator[None]:
        key = bytes(goal.goal_id.uuid)
        self._watches[key] = watch
        if goal.is_cancel_requested:  # Before it was there to be found.
            watch.fail(_Cancelled())
        try:
            yield
        finally:
            del self._watches[key]


@contextlib.contextmanager
def _time_limit(watch: Watch, seconds: float) -> Iterator[None]:
    if not seconds:
        yield
        return
    with time_limit(watch, seconds, _TimeIsUp(f"not found within {seconds:g} s")):
        yield
