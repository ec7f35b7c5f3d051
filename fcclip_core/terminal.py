"""What commands say: text of users is never markup, and never moves the cursor."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from fcclip_core.errors import FcclipError
from fcclip_core.quoting import printable


class Terminal(Console):
    """A Rich console that takes text as it is: no markup, no highlighting, control characters as escapes."""

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False, quiet: bool = False) -> None:
        """Begins to write to the standard output.

        Args:
            stderr: Write to the standard error instead. What goes wrong there is not worth a run: it is ignored.
            soft_wrap: Leave it to the terminal to break lines.
            quiet: Say nothing.
        """
        stream = _Notes(sys.stderr) if stderr else _Answer(sys.stdout)
        file: Any = stream
        super().__init__(file=file, soft_wrap=soft_wrap, quiet=quiet, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """As Rich's, without markup or control characters, wrapped to the terminal's width."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As Rich's, without markup or control characters."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Leaves it to the command, which knows what it has still to do."""
        raise BrokenPipeError


class _Stream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Notes(_Stream):
    """The standard error: a terminal that is gone or a log on a full disk does not end the work."""

    def write(self, text: str) -> int:
        try:
            return int(self._stream.write(text))
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            return


class _Answer(_Stream):
    """The standard output: what cannot be written there was asked for."""

    def write(self, text: str) -> int:
        try:
            return int(self._stream.write(text))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _unwritable(error) from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _unwritable(error) from error


def _unwritable(error: OSError) -> FcclipError:
    return FcclipError(f"the standard output cannot be written: {error.strerror or error}")
