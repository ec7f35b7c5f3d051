"""A node whose callbacks may fail: what one raises is counted, said, and answered."""

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

_SAID_AGAIN_AFTER = 5.0
"""Seconds between two log lines about one callback that goes on failing."""


class GuardedNode(Node):
    """Guards every callback that is given to the node, also by rclpy itself (parameter services).

    An executor gives what a callback raises to whoever spins, who knows neither what failed nor whom to answer.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """As rclpy's."""
        self._said: dict[tuple[str, type], float] = {}
        super().__init__(*args, **options)

    def callback_failed(self, what: str, error: Exception) -> None:
        """Says what a callback raised: whole once, then a line from time to time.

        Args:
            what: The callback, for the log.
            error: What it raised.
        """
        key, now = (what, type(error)), time.monotonic()
        before = self._said.get(key)
        if before is not None and now < before + _SAID_AGAIN_AFTER:
            return
        self._said[key] = now
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
        """As rclpy's; a callback that raises is answered with what it raised, as far as the answer has room for it."""

        def answer(error: Exception, request: Any, response: Any) -> Any:
            return failed_answer(request, srv_type.Response(), printable(describe(error)))

        guarded = self._guarded(f"the service {srv_name}", callback, answer)
        return super().create_service(srv_type, srv_name, guarded, *args, **options)

    def add_on_set_parameters_callback(self, callback: Callable[..., SetParametersResult]) -> None:
        """As rclpy's; a callback that raises refuses the change."""

        def answer(error: Exception, changes: Any) -> SetParametersResult:
            return SetParametersResult(successful=False, reason=printable(describe(error)))

        super().add_on_set_parameters_callback(self._guarded("the change of parameters", callback, answer))

    def _guarded(
        self, what: str, callback: Callable[..., Any], answer: Callable[..., Any] = lambda error, *arguments: None
    ) -> Callable[..., Any]:
        """The callback; where it raises, the error is told and `answer` called with it and the callback's arguments."""

        # rclpy counts the parameters of a subscription's callback, and asks whether a service's is a coroutine.
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
    transition: Callable[..., TransitionCallbackReturn],
) -> Callable[..., TransitionCallbackReturn]:
    """Guards a lifecycle node's method, of which rclpy does not tell when it raises."""

    @functools.wraps(transition)
    def guarded(node: GuardedNode, state: Any) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            node.callback_failed(transition.__name__, error)
            return TransitionCallbackReturn.ERROR

    return guarded


def describe(error: BaseException) -> str:
    """What happened, with the error's type where the text alone may mean nothing."""
    return str(error) if isinstance(error, FcclipError) else f"{type(error).__name__}: {error}"


def failed_answer(request: Any, response: Any, reason: str) -> Any:
    """Puts into an answer why there is none, wherever a service of ours or rclpy's has room for it."""
    if hasattr(response, "success") and hasattr(response, "message"):
        response.success, response.message = False, reason
    refused = SetParametersResult(successful=False, reason=reason)
    if hasattr(response, "results"):
        response.results = [refused for _ in request.parameters]
    if isinstance(getattr(response, "result", None), SetParametersResult):
        response.result = refused
    return response
