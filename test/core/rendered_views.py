"""Views of scenes that tests render, here and in other processes."""

from __future__ import annotations

import hashlib

from fcclip_core.simulation.cameras import random_cameras
from fcclip_core.simulation.frames import Frame
from fcclip_core.simulation.render import Renderer
from fcclip_core.simulation.rooms import Scene, make_scene


def render_view(seed: int) -> tuple[Scene, Frame]:
    with Renderer() as renderer:
        scene = make_scene(seed)
        return scene, renderer.render(scene, random_cameras(scene, 1)[0])


def digest(frame: Frame) -> str:
    parts = (frame.image, frame.segment_map, frame.depth, frame.intrinsics, frame.pose)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
