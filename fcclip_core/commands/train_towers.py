"""`--train-backbone` of `fcclip train`: which image towers learn (ablation in the paper's Table 6)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcclip_core.weights.checkpoints import Checkpoint

SHARED, COPY = TRAINED_TOWERS = ("shared", "copy")
"""CLIP's image tower itself, or a copy of it for mask generator and in-vocabulary classifier."""


def add_argument(parser: Any) -> None:
    """Adds the option; without it CLIP is frozen."""
    parser.add_argument(
        "--train-backbone",
        nargs="?",
        const=SHARED,
        choices=TRAINED_TOWERS,
        help="train CLIP's image tower too (shared, also without a value), or a copy of it for mask generator and "
        "in-vocabulary classifier, while CLIP's own stays frozen for the out-of-vocabulary classifier (copy): Table 6",
    )


def trains_clip(args: argparse.Namespace) -> bool:
    """Whether CLIP's own image tower is trained."""
    return args.train_backbone == SHARED


def with_towers(args: argparse.Namespace, checkpoint: Checkpoint) -> Checkpoint:
    """The starting point with the copy that the arguments ask for; one that has it already is unchanged."""
    from fcclip_core.model.config import OWN
    from fcclip_core.weights.mask_tower import with_own_tower

    if args.train_backbone != COPY or checkpoint.config.mask_tower == OWN:
        return checkpoint
    return with_own_tower(checkpoint)
