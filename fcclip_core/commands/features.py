"""`fcclip features`: what CLIP's frozen features tell apart in an image, as the paper's Figure 1."""

from __future__ import annotations

import argparse
from typing import Any

from fcclip_core.commands.evaluation_data import input_sizes
from fcclip_core.commands.inference_arguments import add_text_tower_arguments
from fcclip_core.commands.vit_arguments import add_vit_arguments, clips_from
from fcclip_core.errors import FcclipError, ImageError, SettingsError
from fcclip_core.files.paths import expanded, refuse_overwriting

SIZES = "224,448,672,896,1120"
WRITTEN = (".png", ".jpg", ".jpeg", ".webp")


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "features",
        help="draw what CLIP's frozen features tell apart, over input sizes (Figure 1)",
        description="Clusters CLIP's features of an image by k-means, at several input sizes, and draws the clusters: "
        "a row for the checkpoint's CLIP and, with --vit, one above it for a CLIP with a ViT; a column for each size. "
        "Equal colors mark clusters that cover most of the same places.",
    )
    parser.add_argument("image", type=expanded, metavar="IMAGE", help="a photograph")
    add_text_tower_arguments(parser)
    add_vit_arguments(parser)
    parser.add_argument("--sizes", default=SIZES, help=f"pixels of the shorter image side (default: {SIZES})")
    parser.add_argument("--kmeans", type=int, default=8, metavar="K", help="clusters, 2 to 32 (default: 8)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the first cluster centers (default: 0)")
    parser.add_argument(
        "--out", type=expanded, required=True, metavar="PICTURE", help=f"the picture ({', '.join(WRITTEN)})"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draws the picture.

    Raises:
        FcclipError: The image or the weights cannot be read, an argument is out of range, or nothing can be written.
    """
    sizes = input_sizes(args.sizes)
    if args.seed < 0:
        raise SettingsError(f"--seed is {args.seed}; expected 0 or more")
    if args.out.suffix.lower() not in WRITTEN:
        raise FcclipError(f"--out {args.out}: pictures are written as {', '.join(WRITTEN)}; choose one of these")
    if not args.out.absolute().parent.is_dir():
        raise FcclipError(f"--out {args.out}: there is no such folder; make it first")
    refuse_overwriting("--out", [args.out], [args.image, *([args.vit_weights] if args.vit_weights else [])])

    from fcclip_core.commands.printing import say
    from fcclip_core.devices import resolve_device
    from fcclip_core.evaluation.features import cluster_maps, draw_clusters
    from fcclip_core.images.image_files import read_photograph, write_image
    from fcclip_core.weights.checkpoints import load_checkpoint

    try:
        image = read_photograph(args.image).pixels
    except ImageError as error:
        raise ImageError(f"{args.image}: {error}") from error
    clips = clips_from(args, load_checkpoint(args.checkpoint), resolve_device(args.device))
    rows = cluster_maps(image, clips[::-1], sizes, args.kmeans, args.seed)
    write_image(args.out, draw_clusters(image, rows))
    for clip in clips:
        if clip.seeded:
            say(f"{clip.name}: seeded weights, whose clusters are those of random features")
    say(f"{args.kmeans} clusters at {', '.join(map(str, sizes))} pixels: {args.out}")
    return 0
