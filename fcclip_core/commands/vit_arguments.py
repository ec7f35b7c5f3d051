"""The arguments of commands that set CLIP with a ViT beside the checkpoint's CLIP."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fcclip_core.errors import SettingsError
from fcclip_core.files.paths import expanded

if TYPE_CHECKING:
    import torch

    from fcclip_core.evaluation.clips import Clip
    from fcclip_core.weights.checkpoints import Checkpoint

VIT = "ViT-L-14:laion2b_s32b_b82k"
"""As `evaluation.patch_clips.PAPER_S_VIT`, which is not loaded for help texts."""


def add_vit_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --vit and --vit-weights."""
    parser.add_argument(
        "--vit",
        nargs="?",
        const=VIT,
        metavar="NAME",
        help="set a CLIP with a ViT beside the checkpoint's: open_clip's name and tag, or recipe:ViT-L-14 for seeded "
        f"weights (without NAME: {VIT})",
    )
    parser.add_argument(
        "--vit-weights",
        type=expanded,
        metavar="FILE",
        help="the ViT's weights as open_clip publishes them (default: open_clip's cache, or a download)",
    )


def clips_from(args: argparse.Namespace, checkpoint: Checkpoint, device: torch.device) -> list[Clip]:
    """The checkpoint's CLIP and, if it is asked for, one with a ViT.

    Raises:
        FcclipError: The ViT's weights cannot be loaded, or are given without its name.
    """
    from fcclip_core.evaluation.clips import Clip
    from fcclip_core.evaluation.patch_clips import load_patch_clip

    if args.vit_weights is not None and args.vit is None:
        raise SettingsError(f"--vit-weights is given without --vit; say which model they are of, such as --vit {VIT}")
    clips = [Clip.of_checkpoint(checkpoint, device)]
    if args.vit is not None:
        clips.append(Clip.of_patches(load_patch_clip(args.vit, args.vit_weights), device))
    return clips
