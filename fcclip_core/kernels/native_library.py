"""C++ kernels of ours, each one file without dependencies, compiled for the CPU that they run on."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import torch

from fcclip_core.errors import BackendError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.files.cache_folder import keep_ours, open_ours, why_unsafe
from fcclip_core.kernels.processor import features
from fcclip_core.quoting import first_line

_logger = logging.getLogger(__name__)

_OPTIONS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC")
_COMPILERS = ("c++", "g++", "clang++")
_TIMEOUT = 120.0
_CHECKSUM_SIZE = 32


class NativeLibrary:
    """A source file, compiled and loaded at most once in a process."""

    def __init__(self, source: Path) -> None:
        """Does nothing yet; `source` is a .cpp file of this package."""
        self._source = source
        self._loaded: ctypes.CDLL | None = None

    @property
    def functions(self) -> ctypes.CDLL:
        """The functions of the library; `load` must have succeeded."""
        assert self._loaded is not None, f"{self._source.name} was not loaded"
        return self._loaded

    def load(self, folder: Path | None) -> None:
        """Compiles the source if necessary, and loads it.

        Args:
            folder: Where to keep compiled kernels; if it is None or unusable, it is compiled for this process only.

        Raises:
            BackendError: There is no C++ compiler, or it fails.
        """
        if self._loaded is not None:
            return
        compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, _COMPILERS)), None)
        if compiler is None:
            raise BackendError("no C++ compiler was found; apt install g++")
        try:
            self._loaded = _loaded(self._source, compiler.split(), folder)
        except subprocess.CalledProcessError as error:
            raise BackendError(f"{compiler} cannot compile {self._source.name}: {first_line(error.stderr)}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendError(f"{self._source.name} cannot be compiled by {compiler} and loaded: {error}") from error


def in_parallel(run: Callable[[int, int], None], count: int) -> None:
    """Calls `run(begin, end)` for parts of 0..`count`, one for each of torch's threads; ctypes releases the GIL."""
    threads = torch.get_num_threads()
    bounds = [count * part // threads for part in range(threads + 1)]
    others = [_threads().submit(run, *part) for part in zip(bounds[1:-1], bounds[2:], strict=True)]
    run(*bounds[:2])
    for other in others:
        other.result()


def _loaded(source: Path, compiler: list[str], folder: Path | None) -> ctypes.CDLL:
    """The library for this source, compiler and CPU."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True, timeout=_TIMEOUT)
    # Machines with different CPUs may share a home folder.
    about = f"{version.stdout}{_OPTIONS}{platform.machine()}{sorted(features())}"
    name = f"{source.stem}-{blake2b(about.encode() + source.read_bytes(), digest_size=8).hexdigest()}.so"
    if folder is not None and (why := why_unsafe(folder.resolve())):
        _logger.warning("compiled kernels are neither loaded from %s nor kept there: %s", folder, why)
    elif folder is not None:
        try:
            return _from_file(source, compiler, folder / name)
        except (OSError, subprocess.CalledProcessError) as error:
            _logger.warning(
                "the compiled kernel cannot be kept in %s: %s. It works now, but will be compiled again at the next "
                "start; free disk space or set FCCLIP_CACHE_DIR to a writable folder",
                folder,
                error,
            )
    with tempfile.TemporaryDirectory() as temporary:
        return _from_file(source, compiler, Path(temporary) / name)


def _from_file(source: Path, compiler: list[str], kernel: Path) -> ctypes.CDLL:
    """Loads a kept kernel, compiling it first if it is missing or damaged."""
    try:
        if not _is_intact(kernel):
            _logger.warning("%s is damaged, so it is compiled again", kernel)
            kernel.unlink()
    except PermissionError as error:  # not this user's
        _logger.warning("%s; it is compiled again", error)
        kernel.unlink()
    except FileNotFoundError:
        pass
    if not kernel.exists():
        kernel.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_write(kernel) as part:
            command = [*compiler, *_OPTIONS, "-o", str(part), str(source)]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT)
            # Loaders ignore bytes after the library's end.
            part.write_bytes(_with_checksum(part.read_bytes()))
            keep_ours(part)
    return ctypes.CDLL(str(kernel))


def _with_checksum(library: bytes) -> bytes:
    return library + blake2b(library, digest_size=_CHECKSUM_SIZE).digest()


def _is_intact(kernel: Path) -> bool:
    """Whether a kept kernel is unchanged: loading a truncated library would crash the process."""
    with open_ours(kernel) as file:
        kept = file.read()
    return kept == _with_checksum(kept[:-_CHECKSUM_SIZE])


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="native")
