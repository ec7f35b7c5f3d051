"""The simulated world as a dataset that is rendered on access."""

from __future__ import annotations

from functools import cached_property

from fcclip_core.datasets.records import ClassList, PanopticSample, TruthSegment, renumbered
from fcclip_core.simulation.cameras import Camera, random_cameras
from fcclip_core.simulation.dataset import SCENES_PER_SEED, WorldPlan
from fcclip_core.simulation.names import world_vocabulary
from fcclip_core.simulation.render import Renderer
from fcclip_core.simulation.rooms import Scene, make_scene


class WorldScenes:
    """Scenes of a plan, one sample per view. Not thread-safe: a GL context belongs to the thread that created it."""

    name = "world"

    def __init__(self, plan: WorldPlan) -> None:
        """Renders nothing yet."""
        vocabulary = world_vocabulary()
        self.classes = ClassList(vocabulary.names, vocabulary.things)
        self._plan = plan
        self._index_of = {name: index for index, name in enumerate(vocabulary.names)}
        self._current: tuple[int, Scene, list[Camera]] | None = None

    def __len__(self) -> int:
        """Number of views."""
        return self._plan.frames

    def __getitem__(self, index: int) -> PanopticSample:
        """Renders the view at `index`.

        Raises:
            SimulationError: Rendering does not work on this machine; says what to install.
        """
        number, view = divmod(index, self._plan.views)
        scene, cameras = self._scene(number)
        frame = self._renderer.render(scene, cameras[view], self._plan.size)
        # The world's ids have gaps where an object is hidden.
        segment_map = renumbered(frame.segment_map, [segment.id for segment in frame.segments])
        segments = (TruthSegment(id_, self._index_of[item.name]) for id_, item in enumerate(frame.segments, 1))
        return PanopticSample(f"scene {number} view {view}", frame.image, segment_map, tuple(segments))

    @cached_property
    def _renderer(self) -> Renderer:
        return Renderer()

    def _scene(self, number: int) -> tuple[Scene, list[Camera]]:
        """The scene and its cameras; the last scene is cached, so that its views share the uploaded data."""
        if self._current is None or self._current[0] != number:
            made = make_scene(self._plan.seed * SCENES_PER_SEED + number, self._plan.split)
            self._current = (number, made, random_cameras(made, self._plan.views))
        return self._current[1:]
