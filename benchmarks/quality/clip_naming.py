"""How well the small CLIP names windows and frames of the simulated world: `clip_naming.py CLIP SHARDS`.

Windows are drawn as in training, but from the frames given here; things alone are counted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.lib.report import print_table, say
from benchmarks.quality.zero_shot import zero_shot
from fcclip_core.datasets.world_shards import WorldShards
from fcclip_core.simulation.names import LOOKS, world_vocabulary
from fcclip_core.training.demo_model.clip import SmallClip
from fcclip_core.training.demo_model.windows import WindowKind, draw_windows
from fcclip_core.vocabulary.text_embeddings import TextEncoder, TextRows

SIZES = (64, 96, 128)
WINDOWS = 300


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path, help="clip.safetensors of `fcclip train world-clip`")
    parser.add_argument("shards", type=Path, help="shards that it was not trained on")
    parser.add_argument("--frames", type=int, default=80, help="frames for the second table (default: 80)")
    parser.add_argument("--shorter-side", type=int, default=480, help="of these frames, in pixels (default: 480)")
    args = parser.parse_args()
    vocabulary = world_vocabulary()
    shards = WorldShards(args.shards, vocabulary)
    model = SmallClip.load(args.clip)
    rows = TextRows(TextEncoder(lambda: model.text), str(args.clip)).rows(vocabulary.synonyms)

    columns = {"pixels": "", "pooled over": "", "windows": ""} | dict.fromkeys(("name", "look", "shape"), ".1%")
    table = ([size, *row] for size in SIZES for row in _windows(model, rows, shards, size))
    print_table(columns, table, "close windows, share that is named right")
    frames = [shards[index] for index in range(min(args.frames, len(shards)))]
    say(str(zero_shot(model.image, rows, vocabulary.things, frames, args.shorter_side)))


@torch.no_grad()
def _windows(model: SmallClip, rows: torch.Tensor, shards: WorldShards, size: int) -> list[list[Any]]:
    things = shards.classes.things
    batch = draw_windows(shards, things, WindowKind(size, WINDOWS, wide=False), np.random.default_rng(0))
    named = (F.normalize(model.embed(batch), dim=-1) @ rows.T).argmax(-1)
    truth = torch.tensor([next(iter(names)) for names in batch.named])
    whole = batch.masks[batch.positions[:, 0], batch.positions[:, 1]].flatten(1).all(1)
    is_thing = torch.tensor(things)
    result: list[list[Any]] = []
    for what, chosen in (("the window", whole), ("the mask", ~whole)):
        ours, theirs = named[chosen & is_thing[truth]], truth[chosen & is_thing[truth]]
        # Things are numbered shape by shape, look by look; stuff comes after them.
        right = (ours == theirs, (ours % len(LOOKS) == theirs % len(LOOKS)) & is_thing[ours])
        shape = ours // len(LOOKS) == theirs // len(LOOKS)
        result.append([what, len(ours), *(found.float().mean().item() for found in (*right, shape))])
    return result


if __name__ == "__main__":
    main()
