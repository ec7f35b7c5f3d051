"""Objects of a memory -> Rerun entities: boxes with names, pictures above them, and where to approach them from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import rerun as rr
import rerun.blueprint as rrb

from fcclip_core.errors import ImageError
from fcclip_core.images.encoded_images import announced_size
from fcclip_core.memory.object_memory import ObjectMemory
from fcclip_core.memory.objects import RememberedObject, State
from fcclip_core.quoting import printable
from fcclip_core.vocabulary.palette import class_color

ROOT = "map"

MOST_PICTURES = 500
"""Pictures are shown of so many objects, the newest: each is an entity of its own, and the viewer slows down."""

_PICTURE_SIDES = (0.15, 0.6)
"""Smallest and largest longer side of a picture in the map, meters."""

_ARROW = 0.3
"""Length of the arrows of approach poses, meters."""

_GONE_COLOR = (128, 128, 128)


def show(recording: rr.RecordingStream, memory: ObjectMemory) -> str:
    """Shows the objects; returns what is shown, in words."""
    confirmed, gone = memory.objects((State.CONFIRMED,)), memory.objects((State.GONE,))
    recording.log(ROOT, rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    recording.log(f"{ROOT}/objects", _boxes(confirmed, [class_color(item.called) for item in confirmed]), static=True)
    recording.log(f"{ROOT}/gone", _boxes(gone, [_GONE_COLOR] * len(gone)), static=True)
    recording.log(f"{ROOT}/approach", _approaches(confirmed), static=True)
    pictured = [item for item in sorted(confirmed, key=lambda item: -item.last_seen) if item.crop][:MOST_PICTURES]
    for item in pictured:
        _log_picture(recording, item)
    recording.send_blueprint(rrb.Blueprint(rrb.Spatial3DView(origin=ROOT, name=ROOT), collapse_panels=True))
    pictures = f", pictures of the newest {MOST_PICTURES}" if len(pictured) == MOST_PICTURES else ""
    return f"{len(confirmed)} objects, and {len(gone)} that are gone{pictures}"


def _boxes(items: Sequence[RememberedObject], colors: Sequence[tuple[int, int, int]]) -> rr.Boxes3D:
    return rr.Boxes3D(
        centers=[item.center for item in items],
        sizes=[item.extents for item in items],
        labels=[f"{printable(item.name) or 'unnamed'} ({item.id})" for item in items],
        colors=colors,
    )


def _approaches(items: Sequence[RememberedObject]) -> rr.Arrows3D:
    """An arrow from where the camera stood at manipulation distance to where it looked."""
    poses = [item.approach.map_from_camera for item in items if item.approach is not None]
    return rr.Arrows3D(origins=[pose[:3, 3] for pose in poses], vectors=[_ARROW * pose[:3, 2] for pose in poses])


def _log_picture(recording: rr.RecordingStream, item: RememberedObject) -> None:
    """The picture above the box, turned to where the camera stood: the image plane of a pinhole camera."""
    try:
        height, width = announced_size(memoryview(item.crop))
    except ImageError:  # a damaged picture: the box is shown nevertheless
        return
    if not (height and width):
        return
    longer = max(height, width)
    side = float(np.clip(item.extents.max(), *_PICTURE_SIDES))
    turn = item.best_view.map_from_camera[:3, :3]
    above = item.center + (0.0, 0.0, item.extents[2] / 2 + side / 2)
    entity = f"{ROOT}/pictures/{item.id}"
    # A plane at the distance `side` of a camera whose focal length is the longer side's pixels is `side` long.
    recording.log(entity, rr.Transform3D(translation=above - side * turn[:, 2], mat3x3=turn), static=True)
    pinhole = rr.Pinhole(focal_length=longer, width=width, height=height, image_plane_distance=side)
    recording.log(entity, pinhole, static=True)
    recording.log(entity, rr.EncodedImage(contents=item.crop, media_type=rr.MediaType.JPEG), static=True)
