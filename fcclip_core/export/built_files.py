"""A folder of files that take long to build and are valid for one machine, library and set of weights.

Each file contains its build key and a checksum. A file that is damaged, foreign or out of date is rebuilt, and the log
says why. If the folder is not writable, files are rebuilt each time.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fcclip_core.errors import BackendError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.files.cache_folder import cache_folder, keep_ours, open_ours
from fcclip_core.quoting import short, short_name

_logger = logging.getLogger(__name__)
_Loaded = TypeVar("_Loaded")

MAGIC = b"FCCLIP built file 1\n"
_LENGTH_BYTES = 8
_LONGEST_HEADER = 1 << 20
_REBUILDING = "%s cannot be used and is built again: %s"

Key = Mapping[str, str]
"""What a file depends on: name of a property -> its value."""


class _Unusable(Exception):
    """A file must be rebuilt; the text says why."""


@dataclass(frozen=True)
class BuiltFiles:
    """Files of one folder.

    Attributes:
        folder: The folder, created when needed; None keeps nothing.
    """

    folder: Path | None

    @classmethod
    def default(cls) -> BuiltFiles:
        """The folder `built` in the program's cache; $FCCLIP_CACHE_DIR moves it."""
        return cls.below(None)

    @classmethod
    def below(cls, cache_dir: Path | None) -> BuiltFiles:
        """The folder `built` in a cache; None: the program's cache. A cache that others can write is not used."""
        cache = cache_folder(cache_dir)
        return cls(cache / "built" if cache else None)

    def is_empty(self) -> bool:
        """Whether the folder holds no file."""
        try:
            return self.folder is None or not any(self.folder.iterdir())
        except OSError:
            return True

    def holds(self, name: str) -> bool:
        """Whether there is a file `name`, valid or not."""
        path = self._path(name)
        return path is not None and path.is_file()

    def is_current(self, name: str, key: Key) -> bool:
        """Whether the file `name` was built from `key` and is complete, judging by its header and length."""
        path = self._path(name)
        try:
            if path is None:
                return False
            with open_ours(path) as file:
                header = _read_header(file)
                _require(header, key)
                return _size_after_header(file) == header["size"]
        except (OSError, _Unusable):
            return False

    def get(self, name: str, key: Key, build: Callable[[], bytes], load: Callable[[bytes], _Loaded]) -> _Loaded:
        """Loads the file `name`, building it first if it is missing or unusable.

        Args:
            name: File name.
            key: What the content depends on.
            build: Creates the content.
            load: Loads the content; raises `BackendError` to reject it.

        Returns:
            The result of `load`.

        Raises:
            BackendError: From `build`, or from `load` for newly built content.
        """
        content = self.kept(name, key)
        if content is not None:
            try:
                return load(content)
            except BackendError as error:
                _logger.warning(_REBUILDING, self._path(name), error)
        content = build()
        loaded = load(content)
        self.keep(name, key, content)
        return loaded

    def kept(self, name: str, key: Key) -> bytes | None:
        """The content of the file `name`; None, with a log message, if it is missing or unusable."""
        path = self._path(name)
        if path is None:
            return None
        try:
            return _read(path, key)
        except FileNotFoundError:
            _logger.info("%s does not exist yet: building it", path)
        except (_Unusable, OSError) as error:
            _logger.warning(_REBUILDING, path, error)
        return None

    def keep(self, name: str, key: Key, content: bytes) -> None:
        """Writes the file `name`; a failure is only logged."""
        path = self._path(name)
        if path is not None:
            _write(path, key, content)

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / name


NOTHING_KEPT = BuiltFiles(None)


@dataclass(frozen=True)
class KeptFile:
    """One file of such a folder that is optional: a cache of a library.

    Attributes:
        files: The folder.
        name: File name.
        key: What the content depends on.
    """

    files: BuiltFiles
    name: str
    key: Key

    def read(self) -> bytes:
        """The content written last; empty if there is none or it is unusable."""
        return self.files.kept(self.name, self.key) or b""

    def write(self, content: bytes) -> None:
        """Replaces the content."""
        self.files.keep(self.name, self.key, content)


def _read(path: Path, key: Key) -> bytes:
    """The content of `path`, if it is complete and was built from `key`.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be read.
        _Unusable: It is damaged or was built from another key.
    """
    with open_ours(path) as file:
        header = _read_header(file)
        _require(header, key)
        if (size := _size_after_header(file)) != header["size"]:
            raise _Unusable(f"it is truncated or was changed: {size:,} bytes, expected {short(header['size'])}")
        content = file.read()
    if blake2b(content).hexdigest() != header["blake2b"]:
        raise _Unusable("it is damaged: its checksum does not match its content")
    return content


def _require(header: dict[str, Any], key: Key) -> None:
    """Checks that a file's header has the key `key`.

    Raises:
        _Unusable: It has another one.
    """
    found = header["key"]
    for name in [*key, *found]:
        if found.get(name) != key.get(name):
            value = short_name(found[name]) if name in found else "not given"
            raise _Unusable(f"its {short_name(name)} is {value}; expected {key.get(name, 'none')}")


def _read_header(file: BinaryIO) -> dict[str, Any]:
    """Reads the header of an open file, up to the start of its content.

    Raises:
        _Unusable: There is no complete header of this program.
    """
    start = file.read(len(MAGIC) + _LENGTH_BYTES)
    if not start.startswith(MAGIC):
        raise _Unusable("it was not written by this program, or is truncated")
    length = int.from_bytes(start[len(MAGIC) :], "little")
    try:
        header = json.loads(file.read(min(length, _LONGEST_HEADER)))
        if isinstance(header["key"], dict) and isinstance(header["size"], int) and isinstance(header["blake2b"], str):
            return header
    except (ValueError, KeyError, TypeError, RecursionError):  # not JSON, other fields, or nested too deeply
        pass
    raise _Unusable("its header is damaged")


def _size_after_header(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size - file.tell()


def _write(path: Path, key: Key, content: bytes) -> None:
    """Writes a file atomically; a failure is only logged."""
    header = {"key": dict(key), "size": len(content), "blake2b": blake2b(content).hexdigest()}
    encoded = json.dumps(header).encode()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_write(path) as part:
            with part.open("wb") as file:
                file.write(MAGIC + len(encoded).to_bytes(_LENGTH_BYTES, "little") + encoded)
                file.write(content)
            keep_ours(part)
    except OSError as error:
        _logger.warning(
            "%s (%.0f MB) cannot be kept: %s. It works now, but will be built again at the next start; free disk "
            "space or set FCCLIP_CACHE_DIR to a writable folder",
            path,
            len(content) / 1e6,
            error.strerror or error,
        )
    else:
        _logger.info("kept %s (%.0f MB)", path, len(content) / 1e6)
