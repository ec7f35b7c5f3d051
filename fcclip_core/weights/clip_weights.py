"""CLIP's weights, which the published FC-CLIP checkpoints omit: from a file, or from open_clip."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch

from fcclip_core.errors import CheckpointError
from fcclip_core.model.config import PRESETS, ModelConfig
from fcclip_core.weights.published_layout import BATCH_COUNTER, CLIP_SCALE, layout_of
from fcclip_core.weights.published_names import CLIP_PREFIX
from fcclip_core.weights.weight_files import is_torchscript, read_weight_file, sha256_of

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""File names of open_clip's models on the Hugging Face hub, in order of preference."""
OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's archives store with the weights."""


class PublishedClip(Protocol):
    """What is asked of a CLIP to find its weights; `ModelConfig` and `PatchClipConfig` document the attributes."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def open_clip_name(self) -> str | None:
        """open_clip's architecture name."""
        ...

    @property
    def open_clip_tag(self) -> str | None:
        """open_clip's tag of the weights."""
        ...

    @property
    def clip_is_frozen(self) -> bool:
        """Whether the weights are open_clip's own."""
        ...


@dataclass(frozen=True)
class ClipWeights:
    """CLIP's tensors and their origin.

    Attributes:
        tensors: Published key -> tensor, with the prefix `backbone.clip_model.`.
        path: The file.
        origin: open_clip's name and tag; empty for a user's file.
    """

    tensors: dict[str, torch.Tensor]
    path: Path
    origin: str


def load_clip(config: ModelConfig, path: Path | None = None) -> ClipWeights:
    """Loads CLIP's weights, image and text.

    Args:
        config: The model whose CLIP to load.
        path: A file saved by open_clip (.bin, .pt, .pth or .safetensors) or OpenAI's archive; None: from open_clip's
            cache, or downloaded.

    Returns:
        The tensors under published keys, not yet checked against `config`.

    Raises:
        CheckpointError: The file is unusable, or the download failed; says which file to fetch and how to pass it.
    """
    file = path or find_or_download(config, "`--clip FILE`, or load_checkpoint(..., clip=FILE)")
    origin = f"open_clip {config.open_clip_name} {config.open_clip_tag}" if path is None else ""
    return ClipWeights(_published(config, read_clip_file(config, file)), file, origin)


def fitting_preset(tensors: dict[str, torch.Tensor]) -> ModelConfig | None:
    """The preset whose CLIP has exactly these published keys and shapes; None if there is none."""
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    for config in PRESETS.values():
        if {key: entry.shape for key, entry in layout_of(config).clip.items()} == shapes:
            return config
    return None


def cached_clip(config: PublishedClip) -> Path | None:
    """The file of a preset's CLIP weights from an earlier download; None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    if not _is_published(config):
        return None
    entry = _pretrained_entry(config)
    for name in HUB_FILES if entry.get("hf_hub") else ():
        found = try_to_load_from_cache(entry["hf_hub"].strip("/"), name)
        if isinstance(found, str):
            return Path(found)
    archive = Path(os.path.expanduser("~/.cache/clip")) / entry.get("url", "").rpartition("/")[2]
    return archive if archive.is_file() else None


def clip_source(config: PublishedClip) -> str:
    """Where a preset's CLIP weights are published, for messages.

    Raises:
        CheckpointError: The preset's CLIP is not published.
    """
    entry = _pretrained_entry(config)
    places = []
    if hub := entry.get("hf_hub", "").strip("/"):
        places.append(f"{' or '.join(HUB_FILES)} from https://huggingface.co/{hub}")
    if url := entry.get("url"):
        places.append(url)
    return ", or ".join(places)


def _is_published(config: PublishedClip) -> bool:
    return config.open_clip_name is not None and config.clip_is_frozen


def _pretrained_entry(config: PublishedClip) -> dict[str, Any]:
    from open_clip import get_pretrained_cfg

    if not _is_published(config):
        raise CheckpointError(
            f"the CLIP of preset {config.name} is not published; its checkpoints contain CLIP's weights themselves"
        )
    return get_pretrained_cfg(config.open_clip_name, config.open_clip_tag)


def find_or_download(config: PublishedClip, how: str) -> Path:
    """The file of CLIP's weights: from an earlier download, or downloaded.

    Args:
        config: The CLIP.
        how: How the user passes a file, for the message.

    Raises:
        CheckpointError: The download failed; says which file to fetch and how to pass it.
    """
    from open_clip import download_pretrained

    entry = _pretrained_entry(config)
    if (cached := cached_clip(config)) is not None:
        return cached
    try:
        _check_network()
        return Path(download_pretrained(entry))
    except Exception as error:  # huggingface_hub, urllib and the file system raise various types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(
            f"CLIP's weights ({config.open_clip_name}, {config.open_clip_tag}) are not on this machine and could not "
            f"be downloaded ({reason}). On a machine with internet access, download {clip_source(config)}, copy it "
            f"here and pass it: {how}"
        ) from error


def _check_network() -> None:
    """Fails immediately without a network; the download itself would retry for almost a minute.

    Raises:
        OSError: The host name cannot be resolved, and there is no proxy.
    """
    from huggingface_hub.constants import ENDPOINT

    if not getproxies():
        socket.getaddrinfo(urlsplit(ENDPOINT).hostname, 443)


def read_clip_file(config: PublishedClip, path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a CLIP file under its own keys, not yet checked.

    Raises:
        CheckpointError: The file is unusable.
    """
    if is_torchscript(path):
        return _read_openai_archive(config, path)
    return read_weight_file(path).tensors


def _read_openai_archive(config: PublishedClip, path: Path) -> dict[str, torch.Tensor]:
    """Opens a TorchScript archive, which contains code, only if its hash is that of OpenAI's published file."""
    url = _pretrained_entry(config).get("url", "")
    expected = url.split("/")[-2] if "openaipublic" in url else ""
    found = sha256_of(path)
    if found != expected:
        raise CheckpointError(
            f"{path} is a TorchScript archive, which contains code, and not OpenAI's published one for "
            f"{config.open_clip_name} (SHA-256 {found}, expected {expected or 'none: OpenAI publishes none'}), so it "
            f"is not loaded. Download {clip_source(config)}, or load the archive where you trust it and save its "
            "state dictionary with torch.save"
        )
    return torch.jit.load(path, map_location="cpu").state_dict()


def _published(config: ModelConfig, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames open_clip's keys to the published ones, for all historic variants of its files."""
    if any(key.startswith(CLIP_PREFIX) for key in tensors):  # a complete FC-CLIP checkpoint contains CLIP
        return {key: tensor for key, tensor in tensors.items() if key.startswith(CLIP_PREFIX)}
    renamed = {_published_key(key): tensor for key, tensor in tensors.items() if key not in OPENAI_EXTRAS}
    if CLIP_SCALE in renamed and renamed[CLIP_SCALE].numel() == 1:
        renamed[CLIP_SCALE] = renamed[CLIP_SCALE].reshape(())
    for key in layout_of(config).clip:
        # Files from before torch 0.4.1 have no batch counters, which are unused.
        if key.endswith(BATCH_COUNTER) and key.removesuffix(BATCH_COUNTER) + "running_mean" in renamed:
            renamed.setdefault(key, torch.zeros((), dtype=torch.int64))
    return renamed


def _published_key(key: str) -> str:
    """open_clip's towers with a separate text module have the prefix `text.`."""
    return CLIP_PREFIX + key.removeprefix("text.")
