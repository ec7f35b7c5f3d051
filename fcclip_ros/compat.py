"""Differences between ROS 2 distributions and installations."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import ModuleType
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import Executor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future as ExecutorFuture

RCLError = rclpy_implementation.RCLError


def optional_module(name: str) -> ModuleType | None:
    """Imports an optional module such as `vision_msgs.msg`; None if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except Exception:  # A broken installation may raise anything; it is treated like a missing one.
        return None


async def result_of(future: Future[Any], executor: Executor | None) -> Any:
    """Awaits the result of another thread in a callback, while the executor serves other callbacks.

    The callback must be in a reentrant group: a mutually exclusive group would be blocked until it returns.
    """
    done = ExecutorFuture(executor=executor)

    def wake(_: Future[Any]) -> None:
        done.set_result(None)
        if executor is not None:
            # Up to Jazzy a coroutine is only resumed when something else wakes the executor.
            executor.wake()

    future.add_done_callback(wake)
    await done
    try:
        return future.result()
    finally:
        del future  # breaks the reference cycle through the traceback, which would keep a frame alive


def run_transitions_in(node: LifecycleNode, submit: Callable[..., Future[Any]], refused: Callable[[str], None]) -> None:
    """Runs the transitions that are requested by service in a thread instead of the executor.

    The node stays responsive (`ros2 lifecycle get`, parameters, diagnostics) while it loads the model. A transition
    that is invalid in the current state returns success = false; rclpy up to Jazzy raises in the executor instead
    (ros2/rclpy issue 1209), which would end the node.

    Args:
        node: The node; nothing is changed if its rclpy keeps the service elsewhere.
        submit: Runs a function in the thread, in order of submission, and returns its future.
        refused: Called with the reason why a transition failed.
    """
    service = getattr(node, "_service_change_state", None)
    if service is None:
        return
    transition = service.callback

    def attempt(request: Any, response: Any) -> Any:
        try:
            return transition(request, response)
        except Exception as error:
            refused(str(error) if isinstance(error, RCLError) else f"{type(error).__name__}: {error}")
            response.success = False
            return response

    async def change_state(request: Any, response: Any) -> Any:
        return await result_of(submit(attempt, request, response), node.executor)

    service.callback = change_state
    service.callback_group = ReentrantCallbackGroup()


def destroy_state_machine(node: LifecycleNode) -> None:
    """Destroys the state machine of a lifecycle node, which rclpy's `destroy_node` does not.

    It holds the node's handle, and with it the DDS participant, as long as the node object is referenced, for example
    by an executor that was shut down with a timer callback in its list.
    """
    machine = getattr(node, "_state_machine", None)
    if machine is not None and hasattr(machine, "destroy_when_not_in_use"):
        machine.destroy_when_not_in_use()


def given_parameters(node: Node) -> Mapping[str, Parameter]:
    """The parameter overrides (command line, files), declared or not; empty if rclpy does not expose them."""
    return dict(getattr(node, "_parameter_overrides", {}))
