"""Checkpoints: safetensors files with another header, and any damage to those and to PyTorch's own files."""

from __future__ import annotations

import functools
import io
import json
import struct
import tempfile
from pathlib import Path

import torch
from hypothesis import strategies as st
from mutations import NUMBERS, mutated, mutated_json

from fcclip_core.weights.checkpoints import load_checkpoint, load_model, save_checkpoint


@functools.cache
def _own_file() -> tuple[dict, bytes]:
    """Header and tensors of a whole checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.safetensors"
        save_checkpoint(path, load_checkpoint("recipe:tiny"))
        data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


@functools.cache
def _torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"backbone.stem.weight": torch.zeros(4, 3), "count": torch.tensor(3)}}, buffer)
    return buffer.getvalue()


def _safetensors(header: object, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + _own_file()[1]


def inputs() -> st.SearchStrategy[bytes]:
    """Headers first, since a whole checkpoint is mostly tensors."""
    header = _own_file()[0]
    return st.one_of(
        mutated_json(header).map(_safetensors),
        st.builds(_safetensors, st.just(header), st.sampled_from(NUMBERS)),
        mutated([_safetensors(header)], most=3),
        mutated([_torch_file()]),
    )


def read(data: bytes, folder: Path) -> None:
    """Opens it as `fcclip` would, down to the network."""
    path = folder / "model.safetensors"
    path.write_bytes(data)
    load_model(load_checkpoint(path))
