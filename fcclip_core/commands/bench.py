"""`fcclip bench`: what the paper reports of the model's size and speed, measured here (Tables 1 and 4)."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcclip_core.commands.evaluation_data import check_result, shown_progress, write_result
from fcclip_core.commands.inference_arguments import add_model_arguments, settings_from, vocabulary_from
from fcclip_core.commands.printing import print_table, say
from fcclip_core.errors import ImageError, SettingsError
from fcclip_core.files.paths import expanded
from fcclip_core.settings import AUTO

if TYPE_CHECKING:
    import numpy as np

    from fcclip_core.model.config import ModelConfig

VOCABULARIES = {"ade20k": "ade20k_150", "coco": "coco_panoptic"}
"""Dataset of Table 4 -> the bundled words for it."""
STAND_IN = (640, 480)
"""Width and height of the image where none is given."""
PAPER_MILLIONS = {
    "image_tower": "200 (Table 1: frozen)",
    "with_embeddings": "238",
    "trained": "21 (Table 1: trainable)",
}
"""Part -> what the paper says of its main model. 238 is what its ratios to ODISE's 1494 and 1522 come to."""


def add_parser(subparsers: Any) -> None:
    """Registers the command and its subcommand."""
    parser = subparsers.add_parser("bench", help="measure the paper's figures of size and speed on this machine")
    actions = parser.add_subparsers(metavar="WHAT", required=True)
    paper = actions.add_parser(
        "paper",
        help="numbers of parameters, and images per second as in Table 4",
        description="Counts parameters as the paper does, and measures images per second by the rule of its Table 4: "
        "from the resized image to segments, semantic map and instances, one by one, without the first five. Seeded "
        "weights cost the network as much as trained ones, but leave another number of masks to merge. `fcclip "
        "evaluate ade20k --fps table4` measures the same beside quality.",
    )
    paper.add_argument(
        "--preset",
        metavar="NAME",
        help="seeded weights of this preset, such as convnext_large: in short for --checkpoint recipe:NAME",
    )
    paper.add_argument(
        "--dataset", choices=tuple(VOCABULARIES), default="ade20k", help="whose words are used (default: ade20k)"
    )
    paper.add_argument(
        "--images",
        type=expanded,
        metavar="DIR",
        help="folder of images to segment, such as the validation set's (default: a stand-in of "
        f"{STAND_IN[0]} x {STAND_IN[1]} pixels, again and again)",
    )
    paper.add_argument("--frames", type=int, default=20, metavar="N", help="images after the warm-up (default: 20)")
    add_model_arguments(paper, without=("output_stride",))
    paper.add_argument("--json", type=expanded, metavar="FILE", help="write every number to this file")
    paper.set_defaults(run=run_paper)


def run_paper(args: argparse.Namespace) -> int:
    """Counts, measures, prints.

    Raises:
        FcclipError: An argument is out of range, or weights or images cannot be read.
    """
    if args.preset is not None and args.checkpoint != AUTO:
        raise SettingsError("--preset and --checkpoint both say which model runs; give one of them")
    if args.frames < 1:
        raise SettingsError(f"--frames is {args.frames}; expected 1 or more")
    check_result(args)
    settings = settings_from(args)

    from fcclip_core.evaluation.timing import TABLE_4, TIME_RULES, ImageTimes
    from fcclip_core.segmenter import Segmenter
    from fcclip_core.terminal import Terminal
    from fcclip_core.weights.model_zoo import FURTHER_SCORES, MAIN_PRESET, RECIPE_PREFIX

    console = Terminal(stderr=True)
    times = ImageTimes(TIME_RULES[TABLE_4])
    count = times.rule.warm_up + args.frames
    images = _images(args.images, count)
    segmenter = Segmenter.from_checkpoint(
        args.checkpoint if args.preset is None else RECIPE_PREFIX + args.preset,
        device=args.device,
        backend=args.backend,
        precision=args.precision,
        vanished_masks=args.vanished_masks,
        settings=settings,
    )
    with console.status("encoding the vocabulary"):
        segmenter.set_vocabulary(vocabulary_from(VOCABULARIES[args.dataset]))
    with shown_progress(console, "images", count) as advance:
        for image in images:
            times.add(segmenter(image), is_panoptic=True)
            advance()

    is_main = segmenter.config.name == MAIN_PRESET
    used = segmenter.settings
    result = {
        "model": segmenter.config.name,
        "seeded": segmenter.provenance.seeded,
        "parameters": _counts(segmenter.config),
        "device": segmenter.backend_description,
        "dataset": args.dataset,
        "images": str(args.images or f"a stand-in of {STAND_IN[0]} x {STAND_IN[1]} pixels"),
        "shorter_side": used.shorter_side,
        "max_size": used.max_size,
        "rule": times.rule.about,
        "timed": times.timed,
        "images_per_second": times.per_second(),
        "paper_images_per_second": FURTHER_SCORES[args.dataset].fps if is_main else None,
    }
    written = write_result(args.json, result)
    _show(result, is_main)
    if written:
        say(written)
    return 0


def _counts(config: ModelConfig) -> dict[str, int]:
    from fcclip_core.evaluation.model_size import model_size

    size = model_size(config)
    return {
        "image_tower": size.image_tower,
        "with_embeddings": size.paper_frozen,
        "text_tower": size.text_tower,
        "trained": size.trained,
        "total": size.total,
    }


def _images(folder: Path | None, count: int) -> Iterator[np.ndarray]:
    """So many images of a folder, sorted, and from the first one again after the last.

    Raises:
        DatasetError: The folder cannot be read or holds none.
        ImageError: One cannot be read; names it.
    """
    import numpy as np
    from PIL import Image

    from fcclip_core.datasets.class_folders import images_below
    from fcclip_core.images.image_files import read_photograph

    if folder is None:
        # Blotches of color, neither flat nor noise.
        coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
        return itertools.repeat(np.asarray(Image.fromarray(coarse).resize(STAND_IN, Image.Resampling.BICUBIC)), count)

    def read(path: Path) -> np.ndarray:
        try:
            return read_photograph(path).pixels
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error

    return map(read, itertools.islice(itertools.cycle(images_below(folder)), count))


def _show(result: dict[str, Any], is_main: bool) -> None:
    names = {
        "image_tower": "CLIP's image tower",
        "with_embeddings": "the same and its embeddings of tokens and positions",
        "text_tower": "CLIP's text tower, with these embeddings",
        "trained": "trained: both decoders, void embedding",
        "total": "everything",
    }
    say(f"{result['model']}: parameters in millions")
    columns = ("", "here", *(("the paper",) if is_main else ()))
    rows = [
        (name, f"{result['parameters'][part] / 1e6:.1f}", *((PAPER_MILLIONS.get(part, "-"),) if is_main else ()))
        for part, name in names.items()
    ]
    print_table(columns, rows)
    size = f"shorter side {result['shorter_side']}, longer at most {result['max_size']}"
    if result["seeded"]:
        say("seeded weights: how many masks are merged, and so that part of the time, is not that of a trained model")
    say(f"{result['images_per_second']:.3f} images/s: {result['timed']} images ({result['images']}), {size}")
    say(f"on {result['device']}, with the words of {result['dataset']}; {result['rule']}")
    if result["paper_images_per_second"] is not None:
        say(f"the paper: {result['paper_images_per_second']} images/s on one V100, mean over the validation set")
