"""The errors that users meet. Every message says what was wrong, what was expected and what to do."""

from __future__ import annotations

from fcclip_core.quoting import printable


class FcclipError(Exception):
    """Base of every error that this package raises on purpose."""

    def __str__(self) -> str:
        """The message; names of files, classes and topics in it may go to any terminal and log."""
        return printable(super().__str__())


class CheckpointError(FcclipError):
    """A weights file is missing, truncated, foreign, or made for another model."""


class VocabularyError(FcclipError, ValueError):
    """A vocabulary is empty, contradictory, or contradicts class ids that were assigned before."""


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


class ObservationError(FcclipError, ValueError):
    """What the object memory was given to see is damaged: a pose, a covariance, sizes or embeddings."""


class MemoryFileError(FcclipError):
    """An object memory's file cannot be opened, read or written."""
