"""CLIPs with a ViT image tower, from open_clip, to compare with FC-CLIP's own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from fcclip_core.devices import undisturbed
from fcclip_core.errors import CheckpointError
from fcclip_core.evaluation.patch_tower import PatchClipConfig, PatchTower
from fcclip_core.model.text_tower import TextTower
from fcclip_core.quoting import short, short_name
from fcclip_core.weights.clip_weights import OPENAI_EXTRAS, find_or_download, read_clip_file
from fcclip_core.weights.model_zoo import RECIPE_PREFIX
from fcclip_core.weights.published_names import CLIP_PREFIX
from fcclip_core.weights.seeded_weights import Progress, seeded_state

PAPER_S_VIT = "ViT-L-14:laion2b_s32b_b82k"
"""The paper says ViT-L/14 alone. Its 75.3 % of ImageNet at 224 pixels are what open_clip reports of these weights."""

_SHOWN = 5


@dataclass(frozen=True)
class PatchClip:
    """A CLIP with a ViT, in eval mode without gradients.

    Attributes:
        config: Architecture.
        image: The image tower.
        text: The text tower.
        logit_scale: Its logarithm, a number.
        origin: Where the weights come from, human-readable.
        seeded: True for seeded random weights, whose names are meaningless.
    """

    config: PatchClipConfig
    image: PatchTower
    text: TextTower
    logit_scale: float
    origin: str
    seeded: bool


def load_patch_clip(name: str = PAPER_S_VIT, path: Path | None = None, progress: Progress | None = None) -> PatchClip:
    """Loads a CLIP with a ViT; no key of the file may be missing or left over.

    Args:
        name: open_clip's name and tag, such as "ViT-L-14:laion2b_s32b_b82k"; "recipe:ViT-L-14" for seeded weights.
        path: A file of these weights as open_clip saves them, or OpenAI's archive; None: from open_clip's cache, or
            downloaded.
        progress: Reports the drawing of seeded weights.

    Raises:
        CheckpointError: There is no such model, it is no plain ViT, or the weights are unusable.
    """
    seeded = name.startswith(RECIPE_PREFIX)
    config = _config(name.removeprefix(RECIPE_PREFIX), needs_tag=not seeded)
    with undisturbed(), torch.device("meta"):
        image, text = PatchTower(config), TextTower(config)
    shapes = {key: tuple(tensor.shape) for key, tensor in (image.state_dict() | text.state_dict()).items()}
    shapes["logit_scale"] = ()
    if seeded:
        if path is not None:
            raise CheckpointError(f"{name} has seeded weights, so {path} would not be read; leave one of the two out")
        drawn = seeded_state({CLIP_PREFIX + key: shape for key, shape in shapes.items()}, progress)
        state = {key.removeprefix(CLIP_PREFIX): tensor for key, tensor in drawn.items()}
        origin = f"seeded {config.open_clip_name}"
    else:
        file = path or find_or_download(config, "`--vit-weights FILE`, or load_patch_clip(..., path=FILE)")
        state = _checked(file, read_clip_file(config, file), shapes, name)
        origin = f"open_clip {name}"
    image.load_state_dict({key: state[key] for key in image.state_dict()}, assign=True)
    text.load_state_dict({key: state[key] for key in text.state_dict()}, assign=True)
    return PatchClip(
        config,
        image.eval().requires_grad_(False),
        text.eval().requires_grad_(False),
        state["logit_scale"].item(),
        origin,
        seeded,
    )


def _config(name: str, needs_tag: bool) -> PatchClipConfig:
    import open_clip

    architecture, _, tag = name.partition(":")
    known = open_clip.get_model_config(architecture)
    if known is None:
        close = difflib.get_close_matches(architecture, open_clip.list_models(), n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; expected a name such as {PAPER_S_VIT}"
        raise CheckpointError(f"open_clip has no model {short(architecture)}{hint}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if needs_tag and not tag:
        raise CheckpointError(
            f"{architecture} does not say which weights; add one of open_clip's tags: {', '.join(tags) or 'none'}"
        )
    if tag and tag not in tags:
        raise CheckpointError(f"open_clip has no weights {short(tag)} of {architecture}; tags: {', '.join(tags)}")
    pretrained = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    try:
        return PatchClipConfig.of(architecture, tag or None, known, pretrained)
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{architecture} is no CLIP with a plain ViT ({error}); expected one such as ViT-L-14 or ViT-B-16"
        ) from error


def _checked(
    path: Path, tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], name: str
) -> dict[str, torch.Tensor]:
    """The tensors under our keys, as float32.

    Raises:
        CheckpointError: A key is missing, left over, of another shape or type, or its values are not finite.
    """
    own = {_own_key(key): tensor for key, tensor in tensors.items() if key not in OPENAI_EXTRAS}
    if "logit_scale" in own and own["logit_scale"].numel() == 1:
        own["logit_scale"] = own["logit_scale"].reshape(())
    wrong = [key for key in shapes if key not in own or tuple(own[key].shape) != shapes[key]]
    wrong += [key for key in own if key not in shapes or not own[key].is_floating_point()]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        keys = ", ".join(map(short_name, wrong[:_SHOWN])) + more
        raise CheckpointError(f"{path} does not hold the weights of {name}: {keys} differ; pass open_clip's own file")
    state = {key: tensor.float() for key, tensor in own.items()}
    broken = [key for key, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(f"{path} contains NaN or infinite values in {short_name(broken[0])}; use another copy")
    return state


def _own_key(key: str) -> str:
    return key.removeprefix(CLIP_PREFIX).removeprefix("text.")
