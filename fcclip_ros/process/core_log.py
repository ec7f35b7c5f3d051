"""What the core logs with Python's logging goes to a node's log, so that /rosout has it."""

from __future__ import annotations

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger

from fcclip_core.quoting import printable


class CoreLog(logging.Handler):
    """Passes on records of the core from its creation until `close`."""

    def __init__(self, logger: RcutilsLogger) -> None:
        """Begins to pass on records to `logger`."""
        super().__init__(logging.INFO)
        self._ros_logger = logger
        self._core = logging.getLogger("fcclip_core")
        self._core.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Passes on a record; called by logging."""
        text = printable(record.getMessage())
        if record.levelno >= logging.ERROR:
            self._ros_logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._ros_logger.warning(text)
        else:
            self._ros_logger.info(text)

    def close(self) -> None:
        """Ends it."""
        self._core.removeHandler(self)
        super().close()
