#!/usr/bin/env python3
"""What does the largest image that the node takes cost outside the network? In a process for each kind of message."""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image as Picture

from fcclip_core.images.encoded_images import MAX_SIDE
from fcclip_core.images.image_limits import MAX_PIXELS

KINDS = ("raw rgb8", "raw mono8", "raw bayer_rggb16", "JPEG", "PNG", "raw rgb8, a strip")


def main() -> None:
    """Prints a row for each kind of message."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, default=MAX_PIXELS, help="of the image (default: %(default)s)")
    parser.add_argument("--shorter-side", type=int, default=256, help="that the network sees (default: %(default)s)")
    parser.add_argument("--kind", choices=KINDS, help="measure this one here and print it as JSON")
    args = parser.parse_args()
    if args.kind:
        print(json.dumps(measure(args.kind, args.pixels, args.shorter_side)))
        return
    print("| message | size | megabytes | read | label | messages | peak |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in KINDS:
        command = [sys.executable, "-m", "benchmarks.node.largest_image", "--kind", kind]
        command += ["--pixels", str(args.pixels), "--shorter-side", str(args.shorter_side)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = json.loads(output.splitlines()[-1])
        print(
            f"| {kind} | {row['width']} x {row['height']} | {row['megabytes']:.1f} | {row['read']:.2f} s | "
            f"{row['label']:.2f} s | {row['messages']:.2f} s | {row['peak']:.0f} MB |"
        )


def measure(kind: str, pixels: int, shorter_side: int) -> dict[str, Any]:
    """Reads, labels and answers one message as the node does; seconds and megabytes."""
    from std_msgs.msg import Header

    from fcclip_core import Segmenter, Vocabulary
    from fcclip_core.settings import InferenceSettings
    from fcclip_ros.conversions import messages
    from fcclip_ros.conversions.images import to_rgb

    settings = InferenceSettings(shorter_side=shorter_side)
    segmenter = Segmenter.from_checkpoint("recipe:tiny", device="cpu", backend="eager", settings=settings)
    snapshot = segmenter.set_vocabulary(Vocabulary.from_names(["cup", "plate", "floor"], stuff=["floor"]))
    # Whatever comes with a first frame.
    segmenter(np.zeros((480, 640, 3), np.uint8))
    height = -(-pixels // MAX_SIDE) if "strip" in kind else round((pixels * 3 / 4) ** 0.5)
    message = make_message(kind, height, pixels // height)
    before = resident()
    forget_peak()
    image, read = timed(lambda: to_rgb(message, pixels))
    result, _ = timed(lambda: segmenter(image))
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
        "peak": peak() - before,
    }


def make_message(kind: str, height: int, width: int) -> Any:
    """An image with as much in it as photographs have."""
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


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and how many seconds it took."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def resident() -> float:
    """Megabytes that this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def forget_peak() -> None:
    """Lets `peak` begin anew."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak() -> float:
    """Megabytes that this process held at most."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
