"""Reads untrusted weight files without running code from them.

Tensors are views of the memory-mapped file: they need no memory until they are read, and are not copied afterwards.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fcclip_core.errors import CheckpointError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.files.regular_files import NotRegularError, open_regular
from fcclip_core.quoting import first_line, short, short_name
from fcclip_core.weights.pickled_tuples import has_endless_tuple

HASH_BLOCK = 1 << 24
MAX_HEADER = 16_000_000
"""Largest header in bytes: the largest model's has 200,000, and the longest vocabulary 4 million."""
_STATE_KEYS = ("model", "state_dict", "model_state_dict", "module")
"""Keys under which training programs store a model's state dictionary."""
_MAX_DEPTH = 4
_LEGACY_PICKLES = 5
_WRAPPERS = ("module", "_orig_mod")
_MAX_SHARING = 4
"""Largest ratio of the tensors' total size to the file's size; more than 1 because models tie weights."""
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of torch.save's files before torch 1.6; later ones are zip archives."""


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file.

    Attributes:
        path: The file.
        tensors: Key -> tensor.
        others: Keys of entries that are not tensors.
        metadata: Metadata of a safetensors header; empty for torch files.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    others: tuple[str, ...]
    metadata: dict[str, str]


def read_weight_file(path: Path) -> WeightFile:
    """Reads a safetensors file, or a torch file with a state dictionary, bare or under `model` or `state_dict`.

    Raises:
        CheckpointError: The file is missing, unreadable, truncated, not a weight file, or would run code.
    """
    kind = _kind_of(path)
    if kind == "safetensors":
        return _without_wrappers(_read_safetensors(path))
    if kind == "torchscript":
        raise CheckpointError(
            f"{path} is a TorchScript archive, which contains code and is not loaded. Load it where you trust it and "
            "save its state dictionary: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    return _without_wrappers(_read_torch(path, mapped=kind == "torch"))


def read_archive(path: Path) -> object:
    """Reads a file written by torch.save without running code from it; tensors are on the CPU.

    Raises:
        CheckpointError: As `read_weight_file`.
    """
    if (kind := _kind_of(path)) != "torch":
        raise CheckpointError(f"{path} was not written by torch.save ({kind})")
    return _loaded(path, mapped=False)


def is_torchscript(path: Path) -> bool:
    """True for an archive made by `torch.jit.save`, such as OpenAI's CLIP files.

    Raises:
        CheckpointError: As `read_weight_file`.
    """
    return _kind_of(path) == "torchscript"


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file atomically.

    Raises:
        CheckpointError: The file cannot be written.
    """
    try:
        with atomic_write(path) as part:
            part.touch()
            usual_mode = part.stat().st_mode
            save_file(tensors, part, metadata)
            part.chmod(usual_mode)  # safetensors lets only the owner read its files
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def sha256_of(path: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """SHA-256 of a file in hexadecimal; `progress` is called with (bytes done, total bytes)."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
    return digest.hexdigest()


def _kind_of(path: Path) -> str:
    """`safetensors`, `torch` (a zip archive), `torchscript` or `legacy` (torch before 1.6), detected by content."""
    head, size = _head_of(path)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a git-LFS pointer, not the weights themselves; run `git lfs pull` in its repository"
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path} is a web page: the server returned a page (a login, a warning or an error) instead of the file; "
            "open the link in a browser and download again"
        )
    if head.startswith(b"PK"):
        return _kind_of_zip(path, size)
    header_length = int.from_bytes(head[:8], "little")
    if len(head) > 8 and head[8:9] == b"{" and header_length <= MAX_HEADER:
        if 8 + header_length > size:
            raise CheckpointError(_truncated(path, size))
        return "safetensors"
    if head[8:9] == b"{":
        raise CheckpointError(
            f"{path} is damaged: its header claims a length of {header_length:,} bytes, but at most {MAX_HEADER:,} are "
            "read; download or copy it again"
        )
    if head.startswith(LEGACY_MAGIC):
        return "legacy"
    if head.startswith(b"\x80"):
        raise CheckpointError(
            f"{path} is a plain Python pickle, which could run code while loading, so it was not opened. If you trust "
            "it, load it elsewhere and save its dictionary of tensors with torch.save"
        )
    raise CheckpointError(
        f"{path} is not a recognized checkpoint (it begins with {head[:8]!r}); expected .safetensors, or .pth from "
        "torch.save"
    )


def _head_of(path: Path) -> tuple[bytes, int]:
    try:
        with open_regular(path) as file:
            head = file.read(64)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} does not exist; check the path, or see `fcclip weights list` for downloads"
        ) from error
    except NotRegularError as error:
        raise CheckpointError(f"{error}; pass a weight file") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes); download or copy it again")
    return head, size


def _kind_of_zip(path: Path, size: int) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise CheckpointError(_truncated(path, size)) from error
    names = [member.filename for member in members]
    if any(name.endswith("/constants.pkl") for name in names):
        return "torchscript"
    # torch.save does not compress, so the members cannot be larger than the file.
    packed = next((member for member in members if member.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None or sum(member.file_size for member in members) > size:
        what = f"its member {short(packed.filename)} is compressed" if packed else "its members overlap"
        raise CheckpointError(
            f"{path} was not written by torch.save: {what}, so unpacking could take any amount of memory. Use the "
            "original file, or load it where you trust it and save it again"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        members_found = ", ".join(map(short_name, names[:3])) or "nothing"
        raise CheckpointError(
            f"{path} is a zip archive, but not from torch.save (it contains {members_found}); if the weights are "
            "inside, unpack it and pass the file"
        )
    return "torch"


def _truncated(path: Path, size: int) -> str:
    return f"{path} is truncated or damaged: it has only {size:,} bytes; download or copy it again"


def _read_safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            return WeightFile(path, tensors, (), dict(file.metadata() or {}))
    except Exception as error:  # from the library, or from torch for unsupported types and shapes
        raise CheckpointError(f"{_truncated(path, path.stat().st_size)} ({first_line(error)})") from error


def _read_torch(path: Path, mapped: bool) -> WeightFile:
    state = _state_dictionary(path, _loaded(path, mapped))
    named = {key: value for key, value in state.items() if isinstance(key, str)}
    tensors = {key: value.detach() for key, value in named.items() if isinstance(value, torch.Tensor)}
    _check_extents(path, tensors)
    # Keys may be nested tuples with a very long repr.
    others = tuple(key if isinstance(key, str) else short(key) for key in state if key not in tensors)
    return WeightFile(path, tensors, others, {})


def _loaded(path: Path, mapped: bool) -> object:
    try:
        if _is_endless(path):
            raise CheckpointError(
                f"{path} contains tuples nested so deeply that it could never be read; use the original file"
            )
        if mapped and path.suffix != ".safetensors":
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # Passed as an open file: torch would go by the suffix of a path.
        with open_regular(path) as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} contains Python objects besides tensors, which could run code while loading, so it was not loaded "
            f"({_first_line(error)}). If you trust it, load it elsewhere and save only its `model` dictionary with "
            "torch.save"
        ) from error
    except Exception as error:  # a damaged pickle may raise anything
        raise CheckpointError(f"{_truncated(path, path.stat().st_size)} ({_first_line(error)})") from error


def _is_endless(path: Path) -> bool:
    """Whether one of the pickles of a torch file would take forever to read."""
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):  # before torch 1.6: several pickles in sequence
            file.seek(0)
            return any(has_endless_tuple(file) for _ in range(_LEGACY_PICKLES))
        with zipfile.ZipFile(file) as archive:
            pickles = [name for name in archive.namelist() if name.endswith(".pkl")]
            return any(has_endless_tuple(archive.open(name)) for name in pickles)


def _check_extents(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Checks that tensors sharing memory would not take many times the file's size when copied.

    Raises:
        CheckpointError: They would.
    """
    total = sum(tensor.nbytes for tensor in tensors.values() if 0 not in tensor.stride() and tensor.is_contiguous())
    if total > _MAX_SHARING * path.stat().st_size:
        raise CheckpointError(
            f"{path} has {path.stat().st_size:,} bytes, but its tensors add up to {total:,}: many share memory, which "
            "no checkpoint does; use the original file"
        )


def _without_wrappers(file: WeightFile) -> WeightFile:
    """The file with the prefixes that wrappers around a model add to its keys removed: module., _orig_mod., model.

    Raises:
        CheckpointError: Two keys become equal.
    """
    names = {key: _unwrapped(key) for key in file.tensors}
    while names and all(name.startswith("model.") for name in names.values()):
        names = {key: name.removeprefix("model.") for key, name in names.items()}
    if len(set(names.values())) < len(names):
        twice = next(name for name, count in Counter(names.values()).items() if count > 1)
        raise CheckpointError(
            f"{file.path} contains {short_name(twice)} more than once, with and without a wrapper's prefix; save one "
            "model's state_dict() alone"
        )
    return replace(file, tensors={names[key]: tensor for key, tensor in file.tensors.items()})


def _unwrapped(key: str) -> str:
    """A key without the names of the wrappers of distributed training and torch.compile, at any position."""
    if "module" not in key and "_orig_mod" not in key:
        return key
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)


def _state_dictionary(path: Path, content: object) -> dict[Any, Any]:
    """The dictionary of tensors in an unpickled object: detectron2 stores it under `model`, Lightning `state_dict`."""
    for _ in range(_MAX_DEPTH):
        if isinstance(content, dict):
            content = next((content[name] for name in _STATE_KEYS if isinstance(content.get(name), dict)), content)
    if not isinstance(content, dict) or not any(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(
            f"{path} contains {_describe(content)}, not a dictionary of weights; expected {{'model': {{name: tensor}}}}"
        )
    return content


def _describe(content: object) -> str:
    if isinstance(content, dict):
        return f"a dictionary without tensors ({', '.join(map(short_name, list(content)[:5])) or 'empty'})"
    return f"a {type(content).__name__}"


def _first_line(error: Exception) -> str:
    """The line of torch's long messages that contains the offending name."""
    text = str(error).strip() or type(error).__name__
    for line in text.splitlines():
        if "Unsupported" in line or "GLOBAL" in line:
            return line.strip()[:200]
    return text.splitlines()[0][:200]
