"""The service `~/teach`: classes that are taught by showing, live."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

import fcclip_ros.srv as srv
from fcclip_core.errors import FcclipError, VocabularyError
from fcclip_core.files.paths import expanded
from fcclip_core.segments.teaching import (
    Lesson,
    calibration,
    doubts,
    embed_region,
    forgotten,
    taught,
)
from fcclip_core.vocabulary.checks import summary
from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass
from fcclip_core.vocabulary.examples import MAX_DIMENSION, MAX_EXAMPLES, checked_embeddings
from fcclip_core.vocabulary.saving import save_vocabulary
from fcclip_ros.compat import result_of
from fcclip_ros.conversions.frame import LabeledFrame
from fcclip_ros.conversions.images import to_labels
from fcclip_ros.conversions.messages import box_of
from fcclip_ros.node.camera import Camera
from fcclip_ros.node.find import Access
from fcclip_ros.node.pipeline import Pipeline
from fcclip_ros.qos import IMAGE_REQUESTS

_MAX_NAMES = 100
"""Synonyms of one request."""


class TeachService:
    """Serves `~/teach` while the node is configured; one request at a time, as each builds on the one before."""

    def __init__(self, node: Node, access: Access) -> None:
        """Creates the service."""
        self._node = node
        self._access = access
        self._busy = False
        # Reentrant: the callback awaits other threads without blocking the executor.
        node.create_service(
            srv.Teach,
            "~/teach",
            self._on_teach,
            qos_profile=IMAGE_REQUESTS,
            callback_group=ReentrantCallbackGroup(),
        )

    async def _on_teach(self, request: srv.Teach.Request, response: srv.Teach.Response) -> srv.Teach.Response:
        camera: Camera | None = None
        try:
            camera = self._access.camera(request.camera)
            item = _checked_class(request)
            target = _checked_target(request.save_to)
            with self._alone():
                pipeline = self._access.pipeline()
                if request.forget:
                    vocabulary, warnings = _forgotten(pipeline, item.name)
                else:
                    rows = await self._shown(request, pipeline, camera)
                    vocabulary, warnings = await self._taught(request, item, rows, pipeline, camera)
                snapshot = await result_of(pipeline.set_vocabulary(vocabulary), self._node.executor)
                if target is not None:
                    save_vocabulary(vocabulary, target)
        except Exception as error:
            response.message = self._access.refuse("teach: request rejected", error, camera)
            return response
        response.success = True
        response.message = summary(warnings)
        response.version = snapshot.version
        response.examples = sum(other.example_count for other in vocabulary.classes if other.name == item.name)
        return response

    async def _shown(self, request: srv.Teach.Request, pipeline: Pipeline, camera: Camera) -> np.ndarray:
        """The embeddings of all examples of a request, float32 `(N, D)`."""
        shown = []
        if request.segment_ids:
            shown.append(_of_segments(request.segment_ids, camera.search.latest()))
        if request.image.width:

            def embed(frame: LabeledFrame) -> np.ndarray:
                camera.search.seen.add(frame.result.segments, frame.arrival_time)
                return _of_image(request, frame)

            shown.append(await result_of(pipeline.segment(request.image, None, embed), self._node.executor))
        if request.embeddings:
            shown.append(_of_numbers(request))
        if not shown:
            raise VocabularyError("there is no example; give segment_ids, an image with boxes or a mask, or embeddings")
        widths = {rows.shape[1] for rows in shown}
        if len(widths) > 1:
            raise VocabularyError("the embeddings are not as long as those of this model; they are of another one")
        return np.concatenate(shown)

    async def _taught(
        self, request: srv.Teach.Request, item: VocabularyClass, rows: np.ndarray, pipeline: Pipeline, camera: Camera
    ) -> tuple[Vocabulary, list[str]]:
        """The vocabulary with the new examples, and warnings about them."""
        segmenter, base, options = pipeline.segmenter, pipeline.requested_vocabulary, pipeline.vocabulary_options
        lesson = Lesson(item.synonyms, rows, request.wordless, request.is_thing)

        def teach() -> tuple[Vocabulary, list[str]]:
            model = segmenter.embed_text(item.synonyms).model
            if request.embeddings and request.model != model:
                raise VocabularyError(
                    "the embeddings are of another model than the node's, or model is empty; send the model that "
                    "~/embed_text says"
                )
            measured = calibration(segmenter, camera.search.seen.rows)
            vocabulary = taught(base, lesson, measured, model)
            return vocabulary, doubts(segmenter, options.apply(vocabulary), item.name, measured)

        known = options.apply(base).synonyms if base else ()
        names = (*segmenter.train_vocabulary.synonyms, *known, *item.synonyms)
        return await result_of(pipeline.with_text(names, teach), self._node.executor)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if self._busy:
            raise FcclipError("another request to teach is being served; wait for its response, then ask again")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False


def _checked_class(request: srv.Teach.Request) -> VocabularyClass:
    """The names of a request; commas separate synonyms."""
    names = [part.strip() for text in request.synonyms[: _MAX_NAMES + 1] for part in text.split(",", _MAX_NAMES)]
    if not names or len(names) > _MAX_NAMES:
        raise VocabularyError(
            f"synonyms has {len(names)} names; expected 1 to {_MAX_NAMES}, the first one is the class"
        )
    return VocabularyClass(tuple(names))


def _checked_target(text: str) -> Path | None:
    """Where to save; refused before anything is taught."""
    if not text:
        return None
    path = expanded(text)
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise VocabularyError("save_to is not the name of a .yaml file")
    return path


def _forgotten(pipeline: Pipeline, name: str) -> tuple[Vocabulary, list[str]]:
    """The active vocabulary without the examples of a class, and no warnings."""
    base = pipeline.requested_vocabulary
    left = forgotten(base, name) if base else None
    if left is None:
        raise VocabularyError("no class would be left; set another vocabulary instead")
    return left, []


def _of_segments(ids: Sequence[int], frame: LabeledFrame) -> np.ndarray:
    """The embeddings of segments of a frame."""
    segments = {segment.id: segment for segment in frame.result.segments}
    missing = next((number for number in ids if number not in segments), None)
    if missing is not None:
        shown = ", ".join(map(str, sorted(segments)[:20])) or "none"
        raise VocabularyError(
            f"the latest frame has no segment {missing}, it has {shown}; take the ids from the newest ~/segments"
        )
    return np.stack([segments[number].embedding for number in dict.fromkeys(ids)])


def _of_image(request: srv.Teach.Request, frame: LabeledFrame) -> np.ndarray:
    """The embeddings of the boxes, or of the mask, of a request's image."""
    if len(request.boxes) > MAX_EXAMPLES:
        raise VocabularyError(f"there are {len(request.boxes)} boxes; at most {MAX_EXAMPLES} examples are kept")
    regions = [embed_region(frame.encoded, box=box_of(box)) for box in request.boxes]
    if request.mask.width:
        regions.append(embed_region(frame.encoded, mask=to_labels(request.mask) > 0))
    if not regions:
        raise VocabularyError("the image has no boxes and no mask; say where the example is")
    return np.stack([region.embedding for region in regions])


def _of_numbers(request: srv.Teach.Request) -> np.ndarray:
    """The embeddings of a request."""
    width, count = request.dimension, len(request.embeddings)
    if not 0 < width <= MAX_DIMENSION or count % width or count // width > MAX_EXAMPLES:
        raise VocabularyError(
            f"embeddings has {count} numbers and dimension is {width}; expected 1 to {MAX_EXAMPLES} times as many "
            "numbers as the dimension"
        )
    return checked_embeddings(np.array(request.embeddings, np.float32).reshape(-1, width))
