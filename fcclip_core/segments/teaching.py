"""Teaching by showing: segments of images become examples of a class of a vocabulary.

An example is the out-of-vocabulary embedding of a segment. It comes from a segment of a frame, from a region of an
image, or from whatever kept embeddings. `taught` adds examples to a class, `forgotten` takes them away; both give a new
vocabulary, which is activated and saved like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch

from fcclip_core.errors import ImageError, VocabularyError
from fcclip_core.quoting import short
from fcclip_core.segmenter import EncodedImage, Segmenter
from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass, normal_form
from fcclip_core.vocabulary.examples import (
    FEW_SEGMENTS,
    MAX_EXAMPLES,
    Calibration,
    Examples,
    calibrate,
    checked_embeddings,
)

Box = tuple[int, int, int, int]

MIN_OVERLAP = 0.5
"""How well a mask of the network must fit a region that a user shows, 0..1."""

_UNLIKE = 0.5
"""Cosine to the mean of a class's examples, in excess of the mean segment's, below which one is said to differ."""


@dataclass(frozen=True)
class Region:
    """The network's mask that is nearest to a region.

    Attributes:
        embedding: float32 `(D,)`, its unit embedding.
        overlap: How well the two fit, 0..1: intersection over union, or `_box_overlaps` where a box was given.
    """

    embedding: np.ndarray = field(repr=False)
    overlap: float


@dataclass(frozen=True)
class Lesson:
    """What is taught.

    Attributes:
        synonyms: What the class is called; the first one is its name.
        embeddings: float32 `(N, D)`, unit embeddings of its new examples.
        wordless: Whether the name means nothing to CLIP, so that the examples count alone.
        is_thing: Whether a new class is a thing.
    """

    synonyms: tuple[str, ...]
    embeddings: np.ndarray = field(repr=False)
    wordless: bool = False
    is_thing: bool = True


def embed_region(encoded: EncodedImage, mask: np.ndarray | None = None, box: Box | None = None) -> Region:
    """Embeds a region of an image as the network sees it: by the one of its own masks that overlaps most.

    Args:
        encoded: From `Segmenter.encode`.
        mask: bool `(H, W)`, the region; or
        box: `(x_min, y_min, x_max, y_max)` in pixels of the image, the maxima exclusive.

    Raises:
        ImageError: The region is empty or of another size than the image, or no mask overlaps with it enough.
    """
    if (mask is None) == (box is None):
        raise ImageError("a region is a mask or a box; give exactly one of the two")
    geometry, logits = encoded.geometry, encoded.output.mask_logits[0]
    # Masks are a quarter of the padded input's size.
    masks = (logits > 0).float().cpu()
    height, width = (-(-side // 4) for side in geometry.resized)
    masks = masks[:, :height, :width]
    if mask is not None:
        overlaps = _mask_overlaps(masks, _checked_mask(mask, geometry.image))
    else:
        assert box is not None
        across, down = (geometry.resized[axis] / geometry.image[axis] / 4 for axis in (1, 0))
        shown = np.array(_checked_box(box, geometry.image)) * (across, down, across, down)
        overlaps = _box_overlaps(masks.numpy() > 0, shown)
    best = int(overlaps.argmax())
    if overlaps[best] < MIN_OVERLAP:
        raise ImageError(
            f"no mask of the network fits the region: the best overlaps by {overlaps[best]:.2f}, and {MIN_OVERLAP:g} "
            "is needed; show the whole object, larger or from another side"
        )
    row = encoded.output.out_vocab_embedding[0, best].float().cpu()
    return Region(torch.nn.functional.normalize(row, dim=0).numpy(), float(overlaps[best]))


def segment_embeddings(segmenter: Segmenter, encoded: EncodedImage) -> np.ndarray:
    """The embeddings of an image's segments under the training vocabulary, float32 `(S, D)`, for `calibration`."""
    result = segmenter.decode(encoded, segmenter.prepare_vocabulary(segmenter.train_vocabulary))
    rows = [segment.embedding for segment in result.segments]
    return np.stack(rows) if rows else np.zeros((0, segmenter.config.embed_dim), np.float32)


def calibration(segmenter: Segmenter, segments: np.ndarray) -> Calibration:
    """Measures what makes examples comparable to words; see `examples.calibrate`.

    Args:
        segmenter: Its training vocabulary names the segments.
        segments: float32 `(N, D)`, unit embeddings of any segments of its frames.

    Raises:
        VocabularyError: There is no segment.
    """
    if not len(segments):
        raise VocabularyError("no segment was seen yet, so examples cannot be compared with words; show an image first")
    words = segmenter.train_vocabulary
    texts = segmenter.embed_text(words.synonyms)
    owners = np.repeat(np.arange(len(words)), words.synonym_counts)
    return calibrate(segments, texts.rows, owners.tolist(), texts.logit_scale)


def taught(vocabulary: Vocabulary | None, lesson: Lesson, measured: Calibration, model: str) -> Vocabulary:
    """A vocabulary with further examples of a class, which is added if there is none of that name.

    Args:
        vocabulary: None begins with nothing.
        lesson: What is taught.
        measured: From `calibration`.
        model: Identity of the model that made the embeddings (`Segmenter.embed_text(...).model`).

    Raises:
        VocabularyError: Too many examples, unusable ones, or a name that is a synonym of another class.
    """
    rows = checked_embeddings(lesson.embeddings)
    if len(rows) > MAX_EXAMPLES:
        raise VocabularyError(f"there are {len(rows)} examples; at most {MAX_EXAMPLES} of a class are kept")
    fresh = Examples(rows, model, measured.shift, measured.gain)
    classes = vocabulary.classes if vocabulary else ()
    name = VocabularyClass(lesson.synonyms).name
    at = next((index for index, item in enumerate(classes) if item.name == name), None)
    if at is None or vocabulary is None:
        new = VocabularyClass(lesson.synonyms, is_thing=lesson.is_thing, examples=fresh, wordless=lesson.wordless)
        return replace(vocabulary, classes=(*classes, new)) if vocabulary else Vocabulary((new,))
    known = classes[at]
    if known.distractor:
        raise VocabularyError(f"{short(name)} is a distractor, which is never published; teach another name")
    if known.examples is not None and known.examples.model == model:
        fresh = known.examples.joined(rows, measured)
    synonyms = tuple(dict.fromkeys((*known.synonyms, *lesson.synonyms)))
    changed = replace(known, synonyms=synonyms, examples=fresh, wordless=lesson.wordless or known.wordless)
    return replace(vocabulary, classes=(*classes[:at], changed, *classes[at + 1 :]))


def forgotten(vocabulary: Vocabulary, name: str) -> Vocabulary | None:
    """A vocabulary without the examples of a class; a class without words is removed.

    Returns:
        None if no class is left.

    Raises:
        VocabularyError: There is no class of that name, or it has no examples.
    """
    vocabulary.require_classes("forget", [name])
    wanted = normal_form(name).strip()
    (item,) = (item for item in vocabulary.classes if item.name == wanted)
    if item.examples is None:
        raise VocabularyError(f"the class {short(wanted)} has no examples to forget")
    left = tuple(
        replace(other, examples=None) if other is item else other
        for other in vocabulary.classes
        if other is not item or not item.wordless
    )
    return replace(vocabulary, classes=left) if any(not other.distractor for other in left) else None


def doubts(segmenter: Segmenter, vocabulary: Vocabulary, name: str, measured: Calibration) -> list[str]:
    """Warnings about the examples of a class: one sentence each, none where nothing looks wrong."""
    classes = vocabulary.classes
    at = vocabulary.names.index(normal_form(name).strip())
    examples = classes[at].examples
    if examples is None:
        return []
    found = []
    if measured.segments < FEW_SEGMENTS:
        found.append(
            f"only {measured.segments} different segments were seen, so scores of taught classes are rough; teach "
            "again after the camera has seen more"
        )
    odd = _odd_ones(examples)
    if odd:
        found.append(
            f"the examples {', '.join(map(str, odd))} of {short(name)} differ much from the others; if they show "
            "something else, forget the class and teach it again"
        )
    classifier = segmenter.prepare_vocabulary(vocabulary).classifier
    shown = torch.from_numpy(np.array(examples.embeddings)).to(classifier.rows)
    best = classifier.logits(shown, 1.0).argmax(-1).tolist()
    others = [classes[index].name for index in best if index != at]
    if others:
        most = max(set(others), key=others.count)
        found.append(
            f"{len(others)} of {len(examples)} examples of {short(name)} look more like {short(most)}; the two will be "
            "mistaken for each other"
        )
    return found


def _odd_ones(examples: Examples) -> Sequence[int]:
    """The numbers, from 1, of examples that are unlike the mean of the others."""
    rows, count = examples.embeddings, len(examples)
    if count < 3:
        return []
    rest = (rows.sum(0) - rows) / (count - 1)
    cosines = (rows * rest).sum(1) / np.maximum(np.linalg.norm(rest, axis=1), 1e-6)
    return [number for number, cosine in enumerate(cosines, 1) if cosine < _UNLIKE]


def _mask_overlaps(masks: torch.Tensor, shown: np.ndarray) -> np.ndarray:
    """Intersection over union of each of the masks `(Q, h, w)` with a mask of any size."""
    height, width = masks.shape[1:]
    small = cv2.resize(shown.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    region = torch.from_numpy(small).flatten()
    both = masks.flatten(1) @ region
    overlaps: np.ndarray = (both / (masks.flatten(1).sum(1) + region.sum() - both).clamp(min=1e-6)).numpy()
    return overlaps


def _box_overlaps(masks: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """How well each of the masks `(Q, h, w)` fits a box in their pixels, 0..1.

    It is the share of the mask that lies in the box, times the overlap of the box with the extent of that part: a few
    stray pixels of a mask change its extent, but not much of this.
    """
    overlaps: np.ndarray = np.zeros(len(masks))
    left, top = np.floor(shown[:2]).astype(int)
    right, bottom = np.ceil(shown[2:]).astype(int)
    for index, mask in enumerate(masks):
        part = mask[top:bottom, left:right]
        rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
        if not len(rows):
            continue
        own = np.array([left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1])
        sides = np.minimum(own[2:], shown[2:]) - np.maximum(own[:2], shown[:2])
        both = sides.clip(min=0).prod()
        union = (own[2:] - own[:2]).prod() + (shown[2:] - shown[:2]).prod() - both
        overlaps[index] = part.sum() / mask.sum() * both / union
    return overlaps


def _checked_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if not isinstance(mask, np.ndarray) or mask.shape != size:
        shape = getattr(mask, "shape", None)
        raise ImageError(f"the mask has shape {shape}, the image {size}; expected one pixel of mask a pixel of image")
    if not mask.any():
        raise ImageError("the mask is empty; mark the pixels of the object with values above 0")
    return mask > 0


def _checked_box(box: Box, size: tuple[int, int]) -> Box:
    height, width = size
    x_min, y_min, x_max, y_max = box
    if not (0 <= x_min < x_max <= width and 0 <= y_min < y_max <= height):
        raise ImageError(
            f"the box {short(tuple(box))} is not inside the image of {width} x {height} pixels; expected x_min, y_min, "
            "x_max, y_max with the maxima exclusive"
        )
    return box
