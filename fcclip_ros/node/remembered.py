"""What the node object_memory knows of a goal's words."""

from __future__ import annotations

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

import fcclip_ros.srv as srv
from fcclip_core.errors import FcclipError
from fcclip_core.memory.asking import MAX_ANSWERS
from fcclip_ros.action import WaitFor
from fcclip_ros.node.service_call import PendingCall
from fcclip_ros.qos import REQUESTS


class MemoryClient:
    """Asks the memory's `~/recall`, which asks this node for the embeddings of words that are new to it."""

    def __init__(self, node: Node, memory: str) -> None:
        """Creates the client; `memory` is the memory node's name."""
        self._node = node
        self._recall = node.create_client(
            srv.Recall, f"{memory}/recall", qos_profile=REQUESTS, callback_group=ReentrantCallbackGroup()
        )

    @property
    def service(self) -> str:
        """The service's full name."""
        name: str = self._node.resolve_service_name(self._recall.srv_name)
        return name

    def ask(self, goal: WaitFor.Goal, timeout: float) -> PendingCall:
        """Asks for what matches a goal; its response goes into `result_of_answer`.

        Args:
            goal: The goal.
            timeout: Seconds that the memory may take for words that are new.

        Raises:
            FcclipError: There is no memory.
        """
        if not self._recall.service_is_ready():
            raise FcclipError(
                f"from_memory needs the node object_memory, and there is no service {self.service}; start it "
                "(memory:=true), or set memory_node to its name"
            )
        request = srv.Recall.Request(
            words=goal.words,
            distractors=goal.distractors,
            max_age=goal.max_age,
            minimum_probability=goal.minimum_score,
            limit=min(goal.limit or MAX_ANSWERS, MAX_ANSWERS),
            timeout=timeout,
        )
        return PendingCall(self._recall, request)


def result_of_answer(answer: srv.Recall.Response) -> WaitFor.Result | None:
    """The goal's result; None if the memory knows no match.

    Raises:
        FcclipError: The memory refused the question.
    """
    if not answer.success:
        raise FcclipError(f"the memory cannot answer: {answer.message}")
    if not answer.answers:
        return None
    return WaitFor.Result(
        success=True,
        message=answer.message,
        header=answer.header,
        best_score=answer.best_probability,
        remembered=answer.answers,
    )
