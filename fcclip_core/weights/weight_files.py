"""Opens files of weights that nobody vouches for: whatever is inside, no code of theirs runs.

Tensors come back as views of the mapped file: they cost no memory until they are read, and no second copy after that.
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

import torch
from safetensors import safe_open

from fcclip_core.errors import CheckpointError
from fcclip_core.files.regular_files import NotRegularError, open_regular
from fcclip_core.quoting import first_line, short, short_name
from fcclip_core.weights.pickled_tuples import has_endless_tuple

HASH_BLOCK = 1 << 24
MAX_HEADER = 16_000_000
"""Longest header that is read, bytes: the largest model's has 200,000, and the longest vocabulary 4 million."""
_BELOW = ("model", "state_dict", "model_state_dict", "module")
"""Where training programs file a model's tensors in what they save."""
_DEEPEST = 4
_LEGACY_PICKLES = 5
_WRAPPERS = ("module", "_orig_mod")
_MOST_SHARED = 4
"""How many times a file's bytes its tensors may add up to: models tie weights."""
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How torch.save's files began before torch 1.6; later ones are zip archives."""


@dataclass(frozen=True)
class WeightFile:
    """The content of a file of weights.

    Attributes:
        path: Where it was read from.
        tensors: Key -> tensor, as spelled in the file.
        others: Keys beside the tensors that hold something else.
        metadata: What a safetensors header says; empty for torch files.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    others: tuple[str, ...]
    metadata: dict[str, str]


def read_weight_file(path: Path) -> WeightFile:
    """Reads a safetensors file, or a torch file that holds a state dictionary, bare or below `model` or `state_dict`.

    Raises:
        CheckpointError: The file is missing, unreadable, truncated, no file of weights at all, or needs code to run.
    """
    kind = _kind_of(path)
    if kind == "safetensors":
        return _named_plainly(_read_safetensors(path))
    if kind == "torchscript":
        raise CheckpointError(
            f"{path} is a TorchScript archive, a program with weights inside, which is not run here. Load it where "
            "you trust it and save its state dictionary: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    return _named_plainly(_read_torch(path, mapped=kind == "torch"))


def read_archive(path: Path) -> object:
    """What torch.save wrote to a file, read without running code of it; tensors are on the CPU.

    Raises:
        CheckpointError: As `read_weight_file`.
    """
    if (kind := _kind_of(path)) != "torch":
        raise CheckpointError(f"{path} is not as torch.save writes it ({kind})")
    return _loaded(path, mapped=False)


def is_torchscript(path: Path) -> bool:
    """True for an archive made by `torch.jit.save`, such as OpenAI's CLIP files.

    Raises:
        CheckpointError: As `read_weight_file`.
    """
    return _kind_of(path) == "torchscript"


def sha256_of(path: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """SHA-256 of a file in hexadecimal; `progress` is called with (bytes done, bytes in all)."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
    return digest.hexdigest()


def _kind_of(path: Path) -> str:
    """`safetensors`, `torch` (a zip archive), `torchscript` or `legacy` (torch before 1.6), judged by the content."""
    head, size = _head_of(path)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a git-LFS pointer, not the weights themselves; run `git lfs pull` in its repository"
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path} is a web page: the download was answered with a page (a login, a warning or an error) instead of "
            "the file; open the link in a browser and download again"
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
            f"{path} is damaged: its header says that it is {header_length:,} bytes long, at most {MAX_HEADER:,} are "
            "read; download or copy it again"
        )
    if head.startswith(LEGACY_MAGIC):
        return "legacy"
    if head.startswith(b"\x80"):
        raise CheckpointError(
            f"{path} is a bare Python pickle, which could run code while loading, so it was not opened. If you trust "
            "it, load it elsewhere and save its dictionary of tensors with torch.save"
        )
    raise CheckpointError(
        f"{path} is no file of weights (it begins with {head[:8]!r}); expected .safetensors, or .pth as torch.save "
        "writes it"
    )


def _head_of(path: Path) -> tuple[bytes, int]:
    try:
        with open_regular(path) as file:
            head = file.read(64)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} does not exist; check the path, `fcclip weights list` shows where files come from"
        ) from error
    except NotRegularError as error:
        raise CheckpointError(f"{error}; name a file of weights") from error
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
    # torch.save compresses nothing, and what is not compressed takes no more room than the file has.
    packed = next((member for member in members if member.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None or sum(member.file_size for member in members) > size:
        what = f"its member {short(packed.filename)} is compressed" if packed else "its members overlap"
        raise CheckpointError(
            f"{path} is not as torch.save writes it: {what}, so that unpacking could take any amount of memory. Take "
            "the original file, or load it where you trust it and save it again"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        held = ", ".join(map(short_name, names[:3])) or "nothing"
        raise CheckpointError(
            f"{path} is a zip archive but not one of torch.save (it holds {held}); if the "
            "weights are inside, unpack it and name the file"
        )
    return "torch"


def _truncated(path: Path, size: int) -> str:
    return f"{path} is truncated or damaged: only {size:,} bytes of it are here; download or copy it again"


def _read_safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            return WeightFile(path, tensors, (), dict(file.metadata() or {}))
    except Exception as error:  # the library's own, and torch's for types and shapes that it does not have
        raise CheckpointError(f"{_truncated(path, path.stat().st_size)} ({first_line(error)})") from error


def _read_torch(path: Path, mapped: bool) -> WeightFile:
    state = _state_dictionary(path, _loaded(path, mapped))
    named = {key: value for key, value in state.items() if isinstance(key, str)}
    tensors = {key: value.detach() for key, value in named.items() if isinstance(value, torch.Tensor)}
    _check_extents(path, tensors)
    # Keys may be tuples of tuples, whose text has no end.
    others = tuple(key if isinstance(key, str) else short(key) for key in state if key not in tensors)
    return WeightFile(path, tensors, others, {})


def _loaded(path: Path, mapped: bool) -> object:
    try:
        if _is_endless(path):
            raise CheckpointError(
                f"{path} holds tuples inside tuples without end, which would never be read; take the original file"
            )
        if mapped and path.suffix != ".safetensors":
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # An open file: given a path, torch goes by the name's ending.
        with open_regular(path) as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} needs Python objects beside tensors, which could run code while loading, so it was not loaded "
            f"({_first_line(error)}). If you trust it, load it elsewhere and save only its `model` dictionary with "
            "torch.save"
        ) from error
    except Exception as error:  # what a damaged pickle raises has no bounds
        raise CheckpointError(f"{_truncated(path, path.stat().st_size)} ({_first_line(error)})") from error


def _is_endless(path: Path) -> bool:
    """Whether one of the pickles of a torch file would take for ever to read."""
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):  # before torch 1.6: a pickle of the content, others around it
            file.seek(0)
            return any(has_endless_tuple(file) for _ in range(_LEGACY_PICKLES))
        with zipfile.ZipFile(file) as archive:
            pickles = [name for name in archive.namelist() if name.endswith(".pkl")]
            return any(has_endless_tuple(archive.open(name)) for name in pickles)


def _check_extents(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Refuses tensors that share memory so often that each on its own would take many times the file's size."""
    stretched = sum(tensor.nbytes for tensor in tensors.values() if 0 not in tensor.stride() and tensor.is_contiguous())
    if stretched > _MOST_SHARED * path.stat().st_size:
        raise CheckpointError(
            f"{path} holds {path.stat().st_size:,} bytes for tensors of {stretched:,}: many share one memory, which no "
            "checkpoint does; take the original file"
        )


def _named_plainly(file: WeightFile) -> WeightFile:
    """The file without what programs around a model leave in its keys: module., _orig_mod., model. and the like.

    Raises:
        CheckpointError: Two keys are the same without it.
    """
    names = {key: _plain(key) for key in file.tensors}
    while names and all(name.startswith("model.") for name in names.values()):
        names = {key: name.removeprefix("model.") for key, name in names.items()}
    if len(set(names.values())) < len(names):
        twice = next(name for name, count in Counter(names.values()).items() if count > 1)
        raise CheckpointError(
            f"{file.path} holds {short_name(twice)} more than once, wrapped and plain; save one model's "
            "state_dict() alone"
        )
    return replace(file, tensors={names[key]: tensor for key, tensor in file.tensors.items()})


def _plain(key: str) -> str:
    """A key without the names of distributed training's and torch.compile's wrappers, wherever they stand."""
    if "module" not in key and "_orig_mod" not in key:
        return key
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)


def _state_dictionary(path: Path, content: object) -> dict:
    """The dictionary of tensors in what was unpickled: detectron2 files it below `model`, Lightning `state_dict`."""
    for _ in range(_DEEPEST):
        if isinstance(content, dict):
            content = next((content[name] for name in _BELOW if isinstance(content.get(name), dict)), content)
    if not isinstance(content, dict) or not any(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(
            f"{path} holds {_describe(content)}, not a dictionary of weights; expected {{'model': {{name: tensor}}}}"
        )
    return content


def _describe(content: object) -> str:
    if isinstance(content, dict):
        return f"a dictionary without tensors ({', '.join(map(short_name, list(content)[:5])) or 'empty'})"
    return f"a {type(content).__name__}"


def _first_line(error: Exception) -> str:
    """Torch's messages go on for a page; the offending name is in their first sentence."""
    text = str(error).strip() or type(error).__name__
    for line in text.splitlines():
        if "Unsupported" in line or "GLOBAL" in line:
            return line.strip()[:200]
    return text.splitlines()[0][:200]
