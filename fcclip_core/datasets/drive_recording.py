"""Recorded drives of a robot's camera, stored as a COCO panoptic folder with depth and poses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fcclip_core.datasets.annotation_files import read_json, read_labels, require_same_size
from fcclip_core.datasets.coco_panoptic import panoptic_folder
from fcclip_core.errors import DatasetError, SimulationError
from fcclip_core.simulation.coco_files import ANNOTATIONS, make_folders, save_annotations, save_frame
from fcclip_core.simulation.frames import Frame, TruthSegment
from fcclip_core.simulation.names import Split


class Recording:
    """A recorded drive, read frame by frame, without MuJoCo or a GL library."""

    def __init__(self, folder: Path) -> None:
        """Opens a folder written by `record_drive`.

        Raises:
            DatasetError: A file is missing, or panoptic.json is inconsistent or has no poses.
        """
        self._folder = folder
        self._samples = panoptic_folder(folder)
        self._about = {}
        for entry in read_json(folder / ANNOTATIONS)["images"]:
            if not {"depth_file_name", "intrinsics", "pose"} <= entry.keys():
                raise DatasetError(
                    f"{folder / ANNOTATIONS} has no depth, intrinsics or pose for {entry['file_name']}; "
                    "create a recording with `fcclip world drive`"
                )
            self._about[str(entry["id"])] = entry

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._samples)

    def __getitem__(self, index: int) -> Frame:
        """Reads the frame at `index`, 0..len-1.

        Raises:
            DatasetError: An image is missing or damaged, or sizes differ.
        """
        sample = self._samples[index]
        about = self._about[sample.name]
        path = self._folder / "depth" / about["depth_file_name"]
        millimeters = read_labels(path)
        require_same_size(sample.image, self._folder / "images" / about["file_name"], millimeters, path)
        classes = self._samples.classes
        return Frame(
            image=sample.image,
            segment_map=sample.segment_map,
            segments=tuple(
                TruthSegment(item.id, classes.names[item.class_index], classes.things[item.class_index])
                for item in sample.segments
            ),
            depth=np.where(millimeters > 0, millimeters.astype(np.float32) / 1000, np.float32(np.inf)),
            intrinsics=np.array(about["intrinsics"], float),
            pose=np.array(about["pose"], float),
        )


def record_drive(
    out: Path,
    *,
    seed: int,
    frames: int,
    rate: float,
    split: Split = "all",
    kind: str = "room",
    speed: float = 0.4,
    size: tuple[int, int] = (320, 240),
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Renders a drive into an empty folder.

    Args:
        out: Output folder, created if needed.
        seed: Determines the scene and the path.
        frames: Number of frames.
        rate: Frames per second of the drive.
        split: The classes that the scene may contain.
        kind: Where the robot drives: "room", "table" or "yard".
        speed: Meters per second.
        size: `(width, height)` in pixels.
        advance: Called after each frame.

    Raises:
        SimulationError: Rendering does not work on this machine, invalid kind, or `out` is not empty.
        OSError: `out` cannot be written.
    """
    # MuJoCo is needed for writing only.
    from fcclip_core.simulation.drive import make_drive
    from fcclip_core.simulation.render import Renderer

    if frames < 1 or rate <= 0:
        raise SimulationError(f"got {frames} frames at {rate} per second; expected at least one, and a positive rate")
    if out.exists() and any(out.iterdir()):
        raise SimulationError(f"{out} is not empty; choose another folder")
    drive = make_drive(seed, split, kind, speed)
    make_folders(out)
    records = []
    with Renderer() as renderer:
        for index in range(frames):
            frame = renderer.render(drive.scene, drive.camera(index / rate), size)
            records.append(save_frame(out, f"{index:05d}", index + 1, frame))
            advance()
    save_annotations(out, records, f"drive through the simulated world: {kind}, seed {seed}, {rate:g} frames a second")
