#!/usr/bin/env python3
"""What does the largest image that the node takes cost outside the network? In a process for each kind of message."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from array import array
from typing import Any

import numpy as np
from PIL import Image as Picture

from benchmarks.lib.arguments import make_parser
from benchmarks.lib.memory import peak_bytes, reset_peak, resident_bytes
from benchmarks.lib.rates import timed
from benchmarks.lib.report import Report, print_table
from fcclip_core.images.image_limits import MAX_PIXELS, MAX_SIDE

KINDS = ("raw rgb8", "raw mono8", "raw bayer_rggb16", "JPEG", "PNG", "raw rgb8, a strip")


def main() -> None:
    """Prints a row for each kind of message."""
    parser = make_parser(__doc__, shorter_side=256)
    parser.add_argument("--pixels", type=int, default=MAX_PIXELS, help="of the image")
    parser.add_argument("--kind", choices=KINDS, help="measure this one here and print it as JSON")
    args = parser.parse_args()
    if args.kind:
        print(json.dumps(measure(args.kind, args.pixels, args.shorter_side)))
        return
    report = Report("largest_image")
    found = {}
    for kind in KINDS:
        command = [sys.executable, "-m", "benchmarks.node.largest_image", "--kind", kind]
        command += ["--pixels", str(args.pixels), "--shorter-side", str(args.shorter_side)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[kind] = json.loads(output.splitlines()[-1])
    columns = {"message": "", "height": "", "width": "", "megabytes": ".1f"}
    columns |= {"read s": ".2f", "label s": ".2f", "messages s": ".2f", "peak MB": ".0f"}
    print_table(columns, ([kind, *row.values()] for kind, row in found.items()))
    report.write(args.json, messages=found)


def measure(kind: str, pixels: int, shorter_side: int) -> dict[str, Any]:
    """Reads, labels and publishes one message as the node does; seconds and megabytes."""
    from std_msgs.msg import Header

    from fcclip_core import Segmenter, Vocabulary
    from fcclip_core.settings import InferenceSettings
    from fcclip_ros.conversions import messages
    from fcclip_ros.conversions.images import to_rgb

    settings = InferenceSettings(shorter_side=shorter_side)
    segmenter = Segmenter.from_checkpoint("recipe:tiny", device="cpu", backend="eager", settings=settings)
    snapshot = segmenter.set_vocabulary(Vocabulary.from_names(["cup", "plate", "floor"], stuff=["floor"]))
    # One-time costs of the first frame.
    segmenter(np.zeros((480, 640, 3), np.uint8))
    height = -(-pixels // MAX_SIDE) if "strip" in kind else round((pixels * 3 / 4) ** 0.5)
    message = make_message(kind, height, pixels // height)
    before = resident_bytes()
    reset_peak()
    image, read = timed(to_rgb, message, pixels)
    result, _ = timed(segmenter, image)
    header = Header()
    made, publish = timed(
        lambda: (
            messages.panoptic_message(result, header),
            messages.semantic_message(result, snapshot.class_ids, header),
            messages.confidence_message(result, header),
            messages.segments_message(result, header),
        )
    )
    assert len(made[0].data) == 2 * image.shape[0] * image.shape[1]
    return {
        "height": image.shape[0],
        "width": image.shape[1],
        "megabytes": len(message.data) / 1e6,
        "read": read,
        "label": sum(seconds for stage, seconds in result.timings.items() if stage != "model"),
        "messages": publish,
        "peak": (peak_bytes() - before) / 1e6,
    }


def make_message(kind: str, height: int, width: int) -> Any:
    """An image as detailed as photographs are; `height` and `width` in pixels."""
    from sensor_msgs.msg import CompressedImage, Image

    coarse = np.random.default_rng(0).integers(0, 256, (height // 80 + 2, width // 80 + 2, 3)).astype(np.uint8)
    pixels = np.asarray(Picture.fromarray(coarse).resize((width, height)))
    if kind in ("JPEG", "PNG"):
        buffer = io.BytesIO()
        Picture.fromarray(pixels).save(buffer, kind, quality=90, compress_level=1)
        return CompressedImage(format=kind.lower(), data=array("B", buffer.getvalue()))
    encoding = kind.split()[1].rstrip(",")
    if encoding == "mono8":
        pixels = pixels[:, :, 0]
    elif encoding.startswith("bayer"):
        pixels = pixels[:, :, 0].astype(np.uint16) * 257
    rows = pixels.reshape(height, -1)
    data = array("B", rows.tobytes())
    return Image(height=height, width=width, encoding=encoding, step=rows.nbytes // height, data=data)


if __name__ == "__main__":
    main()
