"""The base class of lifecycle nodes that configure and activate themselves, and end with their process."""

from __future__ import annotations

import traceback
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from fcclip_core.errors import FcclipError
from fcclip_core.quoting import printable
from fcclip_ros.compat import RCLError, run_transitions_in
from fcclip_ros.node.worker import Worker
from fcclip_ros.process.guarded import GuardedNode, describe


class ManagedNode(GuardedNode, LifecycleNode):
    """Runs its transitions on a thread of its own, so that the executor goes on serving requests.

    A subclass has the parameter autostart, and keeps `_lifecycle` up to date in its transitions.
    """

    def __init__(self, name: str, **options: Any) -> None:
        """Declares nothing; the subclass calls `_serve_transitions` once it is complete.

        Args:
            name: Of the node.
            **options: Options of rclpy's LifecycleNode.
        """
        super().__init__(name, **options)
        self._lifecycle = "unconfigured"
        """Label of the state; during a transition, that of the transition where requests must know."""
        self._problem = ""
        """Why the node is not in the state that was wanted; empty if it is."""
        self._transitions: Worker[None] = Worker("transitions")

    def begin(self) -> None:
        """Configures and activates the node if the parameter autostart is true."""
        if self.get_parameter("autostart").value:
            self._transitions.submit(self._autostart)

    def _serve_transitions(self) -> None:
        """Has transitions that others request run on the node's thread."""
        run_transitions_in(self, self._transitions.submit, lambda reason: self.get_logger().error(reason))

    def _ended(self, patience: float) -> bool:
        """Shuts down from any lifecycle state; False if that failed or takes longer than `patience` seconds."""
        try:
            self._transitions.submit(self._shut_down).result(patience)
        except (TimeoutError, FutureTimeoutError):
            return False
        except Exception as error:
            self.callback_failed("shutdown", error)
            return False
        return True

    # On the transitions thread

    def _note_unconfigured(self, error: Exception) -> None:
        """Notes why the node could not be configured."""
        self._lifecycle, self._problem = "unconfigured", printable(f"cannot configure: {describe(error)}")

    def _log_unconfigured(self, error: Exception) -> TransitionCallbackReturn:
        """Logs why the node could not be configured, and how to go on; gives FAILURE."""
        name = self.get_fully_qualified_name()
        self.get_logger().error(f"{self._problem}; fix this, then run: ros2 lifecycle set {name} configure")
        if not isinstance(error, FcclipError):
            self.get_logger().error(printable(traceback.format_exc()))
        return TransitionCallbackReturn.FAILURE

    def _autostart(self) -> None:
        try:
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()
        except RCLError as error:
            self.get_logger().error(f"autostart failed: {error}")
        except Exception as error:  # The future of this task is not checked.
            self.callback_failed("autostart", error)

    def _shut_down(self) -> None:
        if self._lifecycle != "finalized":
            self.trigger_shutdown()
