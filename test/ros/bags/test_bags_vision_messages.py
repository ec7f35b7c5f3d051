"""Labels for bags where vision_msgs is installed: boxes and names of class ids as the node publishes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import PIL.Image
from bag_files import save
from rclpy.serialization import deserialize_message
from ros_harness import ROOT, rgb_message
from rosbags.highlevel import AnyReader


def test_a_labeled_bag_has_boxes_and_names_too(tmp_path: Path, vision_msgs: ModuleType) -> None:
    picture = next(iter(sorted((ROOT / "demo" / "drive" / "images").iterdir())))
    image = rgb_message(np.asarray(PIL.Image.open(picture).convert("RGB")), "front")
    bag = save(tmp_path / "run", [("/image", image)])
    command = ["segment", str(bag), "--out", str(tmp_path), "--vocab", "cup; floor", "--stuff", "floor"]
    command += ["--checkpoint", "recipe:tiny", "--shorter-side", "64", "--backend", "eager", "--device", "cpu"]
    done = subprocess.run([sys.executable, "-m", "fcclip_core.cli", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kinds = {"/fcclip/label_info": vision_msgs.LabelInfo, "/fcclip/detections": vision_msgs.Detection2DArray}
    with AnyReader([tmp_path / "run_bag"]) as reader:
        found = {
            connection.topic: deserialize_message(bytes(data), kinds[connection.topic])
            for connection, _, data in reader.messages()
            if connection.topic in kinds
        }
    names = {item.class_id: item.class_name for item in found["/fcclip/label_info"].class_map}
    assert names == {0: "unlabeled", 1: "cup", 2: "floor"}
    assert found["/fcclip/detections"].header == image.header
    assert {item.results[0].hypothesis.class_id for item in found["/fcclip/detections"].detections} <= {"1"}
