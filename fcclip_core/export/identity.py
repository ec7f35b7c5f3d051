"""Hashes of everything a graph depends on: the weights, and the code that builds the graph."""

from __future__ import annotations

import functools
from hashlib import blake2b
from pathlib import Path

import open_clip
import timm
import torch
from torch import nn

_DIGEST_SIZE = 16
_PACKAGE = Path(__file__).parents[1]
_SOURCES = (
    "model/*.py",
    "export/onnx_export.py",
    "export/constants.py",
    "export/deformable_plugin.py",
    "export/check.py",
)


def weights_digest(model: nn.Module) -> str:
    """Hash of every tensor of `model`: name, type, shape and values."""
    digest = blake2b(digest_size=_DIGEST_SIZE)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@functools.cache
def code_digest() -> str:
    """Hash of the code that builds a graph: our sources and the versions of the libraries they use."""
    digest = blake2b(digest_size=_DIGEST_SIZE)
    for pattern in _SOURCES:
        for path in sorted(_PACKAGE.glob(pattern)):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    digest.update(f"{torch.__version__} {timm.__version__} {open_clip.__version__}".encode())
    return digest.hexdigest()
