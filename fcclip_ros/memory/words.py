"""Text embeddings and hidden competitors, asked of the perception node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

import fcclip_ros.srv as srv
from fcclip_core.errors import FcclipError, VocabularyError
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_core.vocabulary.embedded_text import TextEmbeddings
from fcclip_ros.compat import result_of
from fcclip_ros.conversions.messages import vocabulary_from_message
from fcclip_ros.node.deadlines import Deadlines
from fcclip_ros.node.service_call import PendingCall
from fcclip_ros.qos import REQUESTS


class PerceptionClient:
    """Calls the perception node's services; its coroutines run in the executor."""

    def __init__(self, node: Node, perception: str, deadlines: Deadlines) -> None:
        """Creates the clients.

        Args:
            node: The node.
            perception: Name of the perception node.
            deadlines: Timeouts.
        """
        self._node = node
        self._deadlines = deadlines
        self._group = ReentrantCallbackGroup()
        self._embed = self._client(srv.EmbedText, f"{perception}/embed_text")
        self._vocabulary = self._client(srv.GetVocabulary, f"{perception}/get_vocabulary")

    async def embed(self, names: Sequence[str], timeout: float) -> TextEmbeddings:
        """Embeds words.

        Args:
            names: The words.
            timeout: Seconds to wait.

        Raises:
            FcclipError: The perception node is not there, does not answer in time, or refuses the words.
        """
        answer = await self._call(self._embed, srv.EmbedText.Request(names=list(names)), timeout)
        if not answer.success:
            raise VocabularyError(f"the perception node cannot embed the words: {answer.message}")
        rows = np.array(answer.embeddings, np.float32)
        if not answer.dimension or len(rows) != len(names) * answer.dimension:
            raise VocabularyError(
                f"{self._embed.srv_name} answered with {len(rows)} numbers for {len(names)} words, "
                f"{answer.dimension} each; check which node that is"
            )
        return TextEmbeddings(rows.reshape(len(names), -1), answer.logit_scale, answer.model)

    async def competitors(self, timeout: float) -> Vocabulary | None:
        """The classes that compete, unseen, with the perception node's vocabulary; None for none."""
        answer = await self._call(self._vocabulary, srv.GetVocabulary.Request(), timeout)
        for item in answer.distractors:
            item.distractor = False  # only beside classes that are not: these are a vocabulary of their own
        return vocabulary_from_message(answer.distractors) if answer.distractors else None

    def _client(self, kind: type, name: str) -> Any:
        return self._node.create_client(kind, name, qos_profile=REQUESTS, callback_group=self._group)

    async def _call(self, client: Any, request: Any, timeout: float) -> Any:
        name = self._node.resolve_service_name(client.srv_name)
        if not client.service_is_ready():
            raise FcclipError(
                f"words that are new need the perception node, and there is no service {name}; start it, or set "
                "perception_node to its name"
            )
        pending = PendingCall(client, request)
        late = FcclipError(
            f"{name} did not answer within {timeout:g} s; raise the timeout, or check that the perception node is "
            "configured"
        )
        with self._deadlines.within(timeout, lambda: pending.fail(late)):
            return await result_of(pending.future, self._node.executor)
