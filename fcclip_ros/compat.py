"""What differs between ROS 2 installations (distributions, wheels), handled in one place."""

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
    """Imports a module that not every install has, such as `vision_msgs.msg`; None where it does not import."""
    try:
        return importlib.import_module(name)
    except Exception:  # A broken install raises anything; missing and broken are the same to the caller.
        return None


async def result_of(future: Future, executor: Executor | None) -> Any:
    """Waits for another thread's work from inside a callback, while the executor serves its other callbacks.

    The callback must be in a reentrant group: to a mutually exclusive one it counts as running all the while.
    """
    done = ExecutorFuture(executor=executor)

    def tell(_: Future) -> None:
        done.set_result(None)
        if executor is not None:
            # Up to Jazzy a coroutine is looked at again only when something else wakes the executor.
            executor.wake()

    future.add_done_callback(tell)
    await done
    try:
        return future.result()
    finally:
        del future  # an error would know this call, and the call the error: a circle that keeps a frame alive


def run_transitions_in(node: LifecycleNode, submit: Callable[..., Future], refused: Callable[[str], None]) -> None:
    """Moves a node's transitions, where they are asked for by service, from the executor into a thread.

    So the node answers (`ros2 lifecycle get`, parameters, diagnostics) while it loads weights. A transition that the
    present state does not have is answered with success = false; rclpy up to Jazzy raises in the executor instead
    (ros2/rclpy issue 1209), which would end the node.

    Args:
        node: The node; nothing changes if its rclpy keeps the service elsewhere.
        submit: Runs a function in that thread, one after the other, and returns its future.
        refused: Told why a transition was not possible.
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
    """What rclpy's `destroy_node` leaves of a lifecycle node.

    The state machine holds the node's handle, and with it the DDS participant, for as long as anything holds the node
    object: an executor that ended with a timer's callback still in its list does.
    """
    machine = getattr(node, "_state_machine", None)
    if machine is not None and hasattr(machine, "destroy_when_not_in_use"):
        machine.destroy_when_not_in_use()


def given_parameters(node: Node) -> Mapping[str, Parameter]:
    """The parameters given at start (command line, files), declared or not; empty where rclpy does not tell."""
    return dict(getattr(node, "_parameter_overrides", {}))
