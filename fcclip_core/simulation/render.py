"""Off-screen rendering of color, exact panoptic ground truth and depth of a scene.

Ground truth and depth come from a second pass that draws every geom in a unique color without anti-aliasing, so each
pixel is what its center hits.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from fcclip_core.simulation.cameras import Camera
from fcclip_core.simulation.frames import Frame, TruthSegment
from fcclip_core.simulation.gl import make_context, mujoco
from fcclip_core.simulation.rooms import Scene

MIN_PIXELS = 25
"""Smallest number of visible pixels of a segment; pixels of smaller ones are 0."""


class Renderer(AbstractContextManager["Renderer"]):
    """Renders scenes with one GL context; consecutive views of one scene share its uploaded data.

    A context belongs to the thread that created it. Close it, or use it in a `with` block.
    """

    def __init__(self) -> None:
        """Creates the GL context.

        Raises:
            SimulationError: MuJoCo or a GL library is missing; says what to install.
        """
        self._gl: Any = make_context()
        self._loaded: _Loaded | None = None

    def render(self, scene: Scene, camera: Camera, size: tuple[int, int] = (320, 240)) -> Frame:
        """Renders a view.

        Args:
            scene: The scene, from `make_scene`.
            camera: The camera.
            size: `(width, height)` in pixels.
        """
        self._gl.make_current()  # another renderer of this thread may be current
        if self._loaded is None or self._loaded.scene is not scene or self._loaded.size != size:
            self._unload()
            self._loaded = _Loaded(scene, size)
        image, ids, depth = self._loaded.draw(camera)
        segment_map, segments = _truth(scene, ids)
        return Frame(image, segment_map, segments, depth, camera.intrinsics(size), camera.pose)

    def close(self) -> None:
        """Frees the GL context; may be called again."""
        self._unload()
        if self._gl is not None:
            self._gl.free()
            self._gl = None

    def _unload(self) -> None:
        if self._loaded is not None:
            self._gl.make_current()
            self._loaded.free()
            self._loaded = None

    def __exit__(self, *_: object) -> None:
        """Closes the renderer."""
        self.close()


class _Loaded:
    """A scene uploaded to the GL context."""

    def __init__(self, scene: Scene, size: tuple[int, int]) -> None:
        self.scene, self.size = scene, size
        model = scene.model
        model.vis.global_.offwidth, model.vis.global_.offheight = size
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        self._view = mujoco.MjvScene(model, maxgeom=len(scene.owners) + 8)
        mujoco.mjv_updateScene(
            model, data, mujoco.MjvOption(), None, mujoco.MjvCamera(), mujoco.mjtCatBit.mjCAT_ALL.value, self._view
        )
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._near, self._far = (getattr(model.vis.map, end) * model.stat.extent for end in ("znear", "zfar"))
        self._owner_of_code = self._owners_by_code()

    def draw(self, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Renders color, item indices (-1 = none) and depth."""
        self._aim(camera)
        image, _ = self._pass(segment=False)
        codes, depth = self._pass(segment=True)
        code = codes[..., 0] + 256 * codes[..., 1].astype(np.int32)
        return image, self._owner_of_code[code], self._meters(depth)

    def free(self) -> None:
        """Frees the GL memory."""
        self._context.free()

    def _owners_by_code(self) -> np.ndarray:
        """Item index of each color of the segmentation pass; 0 is the background."""
        owners = np.full(self._view.ngeom + 2, -1, dtype=np.int32)
        owners[0] = self.scene.background
        for geom in self._view.geoms[: self._view.ngeom]:
            if geom.segid >= 0:
                owners[geom.segid + 1] = self.scene.owners[geom.objid]
        return owners

    def _aim(self, camera: Camera) -> None:
        """Points both of MuJoCo's eyes along the camera's z axis."""
        top = self._near * np.tan(np.deg2rad(camera.fov) / 2)
        for eye in self._view.camera:
            eye.pos, eye.forward, eye.up = camera.pose[:3, 3], camera.pose[:3, 2], -camera.pose[:3, 1]
            eye.frustum_near, eye.frustum_far = self._near, self._far
            eye.frustum_bottom, eye.frustum_top = -top, top
            eye.frustum_center, eye.frustum_width = 0.0, 0.0
        for light in self._view.lights[: self._view.nlight]:
            if light.headlight:
                light.pos, light.dir = camera.pose[:3, 3], camera.pose[:3, 2]

    def _pass(self, segment: bool) -> tuple[np.ndarray, np.ndarray]:
        flags = mujoco.mjtRndFlag
        self._view.flags[flags.mjRND_SEGMENT] = self._view.flags[flags.mjRND_IDCOLOR] = segment
        width, height = self.size
        area = mujoco.MjrRect(0, 0, width, height)
        colors = np.empty((height, width, 3), dtype=np.uint8)
        depth = np.empty((height, width), dtype=np.float32)
        mujoco.mjr_render(area, self._view, self._context)
        mujoco.mjr_readPixels(colors, depth if segment else None, area, self._context)
        return colors[::-1].copy(), depth[::-1]

    def _meters(self, buffer: np.ndarray) -> np.ndarray:
        """Converts the depth buffer to meters: it is 1 at the near plane and 0 at the far plane."""
        near, far = self._near, self._far
        inverse = buffer.astype(np.float64) * (1 / near - 1 / far) + 1 / far
        return np.where(buffer == 0, np.inf, 1 / inverse).astype(np.float32)


def _truth(scene: Scene, owners: np.ndarray) -> tuple[np.ndarray, tuple[TruthSegment, ...]]:
    counts = np.bincount(owners.ravel() + 1, minlength=len(scene.items) + 1)[1:]
    kept = counts >= MIN_PIXELS
    ids = np.where(kept, np.arange(1, len(kept) + 1), 0).astype(np.int32)
    segment_map = np.append(ids, 0).astype(np.int32)[owners]
    segments = tuple(
        TruthSegment(int(number), item.name, item.is_thing)
        for number, item in zip(ids, scene.items, strict=True)
        if number
    )
    return segment_map, segments
