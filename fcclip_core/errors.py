"""The errors that users meet. Every message says what was wrong, what was expected and what to do."""

from __future__ import annotations

from fcclip_core.plain_text import printable


def first_line(said: object) -> str:
    """The beginning of what a library or a program said; the rest is a trace, or pages of advice."""
    return str(said).strip().partition("\n")[0][:300]


def shown(value: object, length: int = 60) -> str:
    """A value that somebody else chose, as a message quotes it: on one line, printable, cut where it goes on."""
    text = value if isinstance(value, str) else _described(value)
    quoted = ascii(text[:length]) if not text[:length].isprintable() else repr(text[:length])
    return (quoted if isinstance(value, str) else quoted[1:-1]) + ("..." if len(text) > length else "")


def spelled(name: object, length: int = 200) -> str:
    """A name that somebody else chose, as a list of names has it: as it is, unless it is overlong or unprintable."""
    is_plain = isinstance(name, str) and len(name) <= length and name.isprintable()
    return str(name) if is_plain else shown(name, length)


def _described(value: object) -> str:
    """Numbers and the like as they are; of what may be nested without end, only what it is."""
    if value is None or isinstance(value, bool | float):
        return str(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 64 else f"a whole number of {value.bit_length()} bits"
    return f"a {type(value).__name__}"


class FcclipError(Exception):
    """Base of every error that this package raises on purpose."""

    def __str__(self) -> str:
        """The message; names of files, classes and topics in it may go to any terminal and log."""
        return printable(super().__str__())


class CheckpointError(FcclipError):
    """A weights file is missing, truncated, foreign, or made for another model."""


class VocabularyError(FcclipError, ValueError):
    """A vocabulary is empty, contradictory, or does not fit what the segmenter already promised."""


class YamlError(FcclipError, ValueError):
    """YAML text is damaged, or asks for more than plain data."""


class ImageError(FcclipError, ValueError):
    """An image has a shape, type or encoding that cannot be segmented."""


class SettingsError(FcclipError, ValueError):
    """A setting lies outside its range."""


class DatasetError(FcclipError, ValueError):
    """A dataset's folder, annotation file or record is missing, damaged or contradictory."""


class TrainingError(FcclipError):
    """A training run cannot start, continue or go on."""


class BackendError(FcclipError):
    """A way to run the network does not work here: its library is missing, it cannot build, or its answers are off."""


class DeviceLostError(FcclipError):
    """A GPU answers this process no more, whatever it is asked: only a new process can use it."""


class SimulationError(FcclipError):
    """The simulated world cannot be rendered here: MuJoCo or a GL library is missing or does not work."""


class DepthError(FcclipError, ValueError):
    """Depth or a camera's calibration cannot be used, or they do not belong to the image."""
