"""A tiny CLIP with a ViT, known to open_clip like its own models, so that the real loading code is what is tested."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
from open_clip import pretrained

NAME = "ViT-tiny-14-for-tests"
CONFIG = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 56, "layers": 2, "width": 64, "head_width": 32, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def register(folder: Path) -> str:
    """Tells open_clip of the model; returns its name."""
    path = folder / f"{NAME}.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    return NAME


def tagged(monkeypatch: pytest.MonkeyPatch, tag: str = "a_tag", **about: object) -> str:
    """Tells open_clip of weights of it; returns name and tag."""
    entry = {"url": "", "hf_hub": "nobody/nothing/", **about}
    monkeypatch.setitem(pretrained._PRETRAINED, NAME, {tag: entry})
    return f"{NAME}:{tag}"
