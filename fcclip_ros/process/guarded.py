"""The base class of all nodes: exceptions in callbacks are logged and reported to the caller."""

from __future__ import annotations

import functools
import inspect
import time
import traceback
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node

from fcclip_core.errors import FcclipError
from fcclip_core.quoting import printable

_LOG_PERIOD = 5.0
"""Seconds between log messages about a callback that keeps failing."""


class GuardedNode(Node):
    """Catches exceptions in every callback of the node, including those that rclpy adds (parameter services).

    Otherwise an executor raises them from `spin`, where neither the callback nor the request is known.

    Attributes:
        exit_status: Exit status of the process.
    """

    exit_status = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        """As rclpy's."""
        self._logged: dict[tuple[str, type], float] = {}
        super().__init__(*args, **options)

    def begin(self) -> None:
        """Called once the executor is spinning."""

    def finish(self) -> bool:
        """Called before the context is shut down, while the executor spins; False if threads are still running."""
        return True

    def callback_failed(self, what: str, error: Exception) -> None:
        """Logs an exception of a callback: with its traceback the first time, then one line, throttled.

        Args:
            what: Description of the callback.
            error: The exception.
        """
        key, now = (what, type(error)), time.monotonic()
        before = self._logged.get(key)
        if before is not None and now < before + _LOG_PERIOD:
            return
        self._logged[key] = now
        text = printable(f"{what} failed: {describe(error)}")
        if before is None and not isinstance(error, FcclipError):
            text += "\n" + printable("".join(traceback.format_exception(error)))
        self.get_logger().error(text)

    def create_subscription(
        self, msg_type: Any, topic: str, callback: Callable[[Any], Any], *args: Any, **options: Any
    ) -> Any:
        """As rclpy's."""
        guarded = self._guarded(f"the callback for {topic}", callback)
        return super().create_subscription(msg_type, topic, guarded, *args, **options)

    def create_timer(self, timer_period_sec: float, callback: Callable[[], Any], *args: Any, **options: Any) -> Any:
        """As rclpy's."""
        guarded = self._guarded(f"a timer of {timer_period_sec:g} s", callback)
        return super().create_timer(timer_period_sec, guarded, *args, **options)

    def create_guard_condition(self, callback: Callable[[], Any], *args: Any, **options: Any) -> Any:
        """As rclpy's."""
        return super().create_guard_condition(self._guarded("a task", callback), *args, **options)

    def create_service(
        self, srv_type: Any, srv_name: str, callback: Callable[..., Any], *args: Any, **options: Any
    ) -> Any:
        """As rclpy's; if the callback raises, the response contains the error, if it has a field for it."""

        def answer(error: Exception, request: Any, response: Any) -> Any:
            return failed_answer(request, srv_type.Response(), printable(describe(error)))

        guarded = self._guarded(f"the service {srv_name}", callback, answer)
        return super().create_service(srv_type, srv_name, guarded, *args, **options)

    def add_on_set_parameters_callback(self, callback: Callable[..., SetParametersResult]) -> None:
        """As rclpy's; if the callback raises, the change is rejected."""

        def answer(error: Exception, changes: Any) -> SetParametersResult:
            return SetParametersResult(successful=False, reason=printable(describe(error)))

        super().add_on_set_parameters_callback(self._guarded("the parameter callback", callback, answer))

    def _guarded(
        self, what: str, callback: Callable[..., Any], answer: Callable[..., Any] = lambda error, *arguments: None
    ) -> Callable[..., Any]:
        """Wraps a callback: exceptions are logged, and `answer(error, *arguments)` makes the return value."""

        # rclpy inspects the signature of a subscription callback, and whether a service callback is a coroutine.
        @functools.wraps(callback)
        def guarded(*arguments: Any) -> Any:
            try:
                return callback(*arguments)
            except Exception as error:
                self.callback_failed(what, error)
                return answer(error, *arguments)

        @functools.wraps(callback)
        async def guarded_coroutine(*arguments: Any) -> Any:
            try:
                return await callback(*arguments)
            except Exception as error:
                self.callback_failed(what, error)
                return answer(error, *arguments)

        return guarded_coroutine if inspect.iscoroutinefunction(callback) else guarded


def guarded_transition(
    transition: Callable[..., TransitionCallbackReturn | None],
) -> Callable[..., TransitionCallbackReturn]:
    """Wraps a transition callback: None is SUCCESS; exceptions, which rclpy does not log, are logged and ERROR."""

    @functools.wraps(transition)
    def guarded(node: GuardedNode, state: Any) -> TransitionCallbackReturn:
        try:
            return transition(node, state) or TransitionCallbackReturn.SUCCESS
        except Exception as error:
            node.callback_failed(transition.__name__, error)
            return TransitionCallbackReturn.ERROR

    return guarded


def describe(error: BaseException) -> str:
    """Description of an error, with its type unless it is one of this package."""
    return str(error) if isinstance(error, FcclipError) else f"{type(error).__name__}: {error}"


def failed_answer(request: Any, response: Any, reason: str) -> Any:
    """Fills in why a request failed, in the fields that services of this package and of rclpy have for it."""
    if hasattr(response, "success") and hasattr(response, "message"):
        response.success, response.message = False, reason
    rejected = SetParametersResult(successful=False, reason=reason)
    if hasattr(response, "results"):
        response.results = [rejected for _ in request.parameters]
    if isinstance(getattr(response, "result", None), SetParametersResult):
        response.result = rejected
    return response
