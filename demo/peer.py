"""A ROS node in a context of its own that listens to the perception node and calls it: the demo's, the benchmarks'."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

import fcclip_ros.msg as msg
import fcclip_ros.srv as srv
from fcclip_core.errors import FcclipError
from fcclip_core.vocabulary.classes import Vocabulary

NODE = "/fcclip"
"""The perception node."""

_Self = TypeVar("_Self", bound="Peer")


class Peer:
    """Joins ROS for the length of a `with` block, or until `close`; callbacks run in a thread.

    Attributes:
        node: For subscriptions, publishers and clients.
        changed: Held by callbacks while they note something, and notified when they have.
    """

    def __init__(self, name: str, check: Callable[[], object] = lambda: None) -> None:
        """Starts to spin.

        Args:
            name: Of the node.
            check: Called while waiting; raises if there is nothing left to wait for.
        """
        self.changed = threading.Condition()
        self._check = check
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leaves ROS."""
        rclpy.shutdown(context=self._context, uninstall_handlers=False)
        self._thread.join(timeout=5.0)
        self.node.destroy_node()

    def __enter__(self: _Self) -> _Self:
        """Returns the object itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves ROS."""
        self.close()

    def wait_for(self, condition: Callable[[], bool], seconds: float, complaint: str) -> None:
        """Waits until `condition`, called with `changed` held, is true.

        Raises:
            TimeoutError: The time is up; the text is `complaint`.
        """
        end = time.monotonic() + seconds
        with self.changed:
            while not condition():
                self._check()
                if time.monotonic() > end:
                    raise TimeoutError(f"{complaint} within {seconds:g} s")
                self.changed.wait(0.1)

    def watch(self, seconds: float) -> None:
        """Lets time pass, checking."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._check()
            time.sleep(min(0.2, left))

    def call(self, client: Any, request: Any, patience: float) -> tuple[Any, float]:
        """Calls a service once it is there; returns the response and the seconds until it came.

        Raises:
            TimeoutError: It was not there, or did not answer, within `patience` seconds.
        """
        self.wait_for(client.service_is_ready, patience, f"no service {client.srv_name}")
        answer: Future[Any] = Future()
        began = time.perf_counter()

        def tell(done: Any) -> None:
            with self.changed:
                answer.set_result((done.result(), time.perf_counter() - began))
                self.changed.notify_all()

        client.call_async(request).add_done_callback(tell)
        self.wait_for(answer.done, patience, f"{client.srv_name} did not answer")
        return answer.result()

    def set_vocabulary(self, vocabulary: Vocabulary, patience: float) -> tuple[int, float]:
        """Sets the perception node's vocabulary; returns the active version and the seconds that the call took.

        Raises:
            FcclipError: The node rejected it.
            TimeoutError: It did not answer within `patience` seconds.
        """
        request = srv.SetVocabulary.Request(classes=vocabulary_classes(vocabulary))
        response, seconds = self.call(self._set_vocabulary, request, patience)
        if not response.success:
            raise FcclipError(f"{NODE}/set_vocabulary rejected the vocabulary: {response.message}")
        return response.version, seconds

    @functools.cached_property
    def _set_vocabulary(self) -> Any:
        return self.node.create_client(srv.SetVocabulary, f"{NODE}/set_vocabulary")

    def _spin(self) -> None:
        try:
            while self._context.ok():
                self._executor.spin_once()
        except ExternalShutdownException:
            pass


def vocabulary_classes(vocabulary: Vocabulary) -> list[msg.VocabularyClass]:
    """A vocabulary as services take it."""
    return [msg.VocabularyClass(synonyms=list(item.synonyms), is_thing=item.is_thing) for item in vocabulary.classes]
