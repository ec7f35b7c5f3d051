"""Calls of other nodes' services by coroutines, which end by themselves."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, InvalidStateError
from typing import Any


class PendingCall:
    """A call that waits for its answer.

    Attributes:
        future: The response, or the error that ended the call.
    """

    def __init__(self, client: Any, request: Any) -> None:
        """Sends the request; the service should be there (`client.service_is_ready()`)."""
        self.future: Future[Any] = Future()
        self._client = client
        self._sent = client.call_async(request)
        self._sent.add_done_callback(self._answered)

    def fail(self, error: BaseException) -> None:
        """Ends the call with an error, unless it has ended; an answer that comes later is dropped."""
        self._client.remove_pending_request(self._sent)
        # The answer, a timeout, a cancel request and a shutdown may race; the first one wins.
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)

    def _answered(self, sent: Any) -> None:
        with contextlib.suppress(InvalidStateError):
            self.future.set_result(sent.result())
