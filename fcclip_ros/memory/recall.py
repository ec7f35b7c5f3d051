"""The service `~/recall`: words -> remembered objects."""

from __future__ import annotations

import math
import time
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

import fcclip_ros.srv as srv
from fcclip_core.errors import SettingsError
from fcclip_core.memory.asking import Question
from fcclip_core.memory.object_memory import ObjectMemory
from fcclip_core.settings import AUTO
from fcclip_core.vocabulary.background import background_from
from fcclip_ros.compat import result_of
from fcclip_ros.conversions.remembered_objects import answer_message, question_of
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.memory.access import Access
from fcclip_ros.memory.words import PerceptionClient
from fcclip_ros.node.deadlines import MAX_SECONDS
from fcclip_ros.qos import REQUESTS


class RecallService:
    """Answers questions on a thread of its own; the perception node embeds words that are new."""

    def __init__(self, node: Node, access: Access, perception: PerceptionClient) -> None:
        """Creates the service."""
        self._node = node
        self._access = access
        self._perception = perception
        self._has_background: ObjectMemory | None = None
        """The memory that knows what competes in the perception node; `~/load` brings another one."""
        # Reentrant: the callbacks await other threads and nodes without blocking the executor.
        node.create_service(
            srv.Recall,
            "~/recall",
            self._on_recall,
            qos_profile=REQUESTS,
            callback_group=ReentrantCallbackGroup(),
        )

    async def _on_recall(self, request: srv.Recall.Request, response: srv.Recall.Response) -> srv.Recall.Response:
        try:
            if not (math.isfinite(request.timeout) and 0 < request.timeout <= MAX_SECONDS):
                raise SettingsError(f"timeout is {request.timeout:g}; it must be a number of seconds above 0")
            question = question_of(request)
            await self._learn(question, request.timeout)
            return await self._run(self._answer, question)
        except Exception as error:
            response.message = self._access.refuse("recall: request rejected", error)
            return response

    async def _learn(self, question: Question, timeout: float) -> None:
        """Sees to it that all words have text embeddings."""
        deadline, memory = time.monotonic() + timeout, self._access.memory()
        background = self._access.parameters().background
        if background != (AUTO,):
            memory.background = background_from(background, None)
        elif self._has_background is not memory:
            memory.background = await self._perception.competitors(timeout)
            self._has_background = memory
        unknown = await self._run(memory.unknown_words, question)
        if unknown:
            text = await self._perception.embed(unknown, max(deadline - time.monotonic(), 0.001))
            await self._run(memory.learn_words, unknown, text)

    async def _run(self, function: Any, *arguments: Any) -> Any:
        return await result_of(self._access.requests.submit(function, *arguments), self._node.executor)

    def _answer(self, question: Question) -> srv.Recall.Response:
        header = self._access.header()
        reply = self._access.memory().ask(question, now=nanoseconds(header.stamp))
        return srv.Recall.Response(
            success=True,
            message=reply.sentence,
            header=header,
            best_probability=reply.best.probability if reply.best else 0.0,
            answers=[answer_message(item, header, self._access.base_from_camera) for item in reply.answers],
        )
