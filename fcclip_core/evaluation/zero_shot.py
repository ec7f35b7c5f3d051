"""Zero-shot classification of whole images by CLIPs, over input sizes (the paper's Table 10)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fcclip_core.datasets.class_folders import ClassFolders
from fcclip_core.distributed import gathered, rank, world_size
from fcclip_core.errors import ImageError
from fcclip_core.evaluation.clips import Clip
from fcclip_core.images.image_files import read_photograph

RESIZES = {"square": "squash", "crop": "shortest"}
"""Our name -> open_clip's: to a square without regard to the aspect, or the shorter side, then the middle is cut out.

The paper does not say which its "res" is.
"""
TOP = 5


def imagenet_templates() -> tuple[str, ...]:
    """OpenAI's 80 prompts for ImageNet, with {} where the name stands."""
    import open_clip

    return tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)


@dataclass
class Hits:
    """Counts of one CLIP at one input size.

    Attributes:
        top1: Images whose best class is the right one.
        top5: Images whose right class is among the best five.
        images: Images that could be read.
    """

    top1: int = 0
    top5: int = 0
    images: int = 0

    def add(self, best: Tensor, labels: Tensor) -> None:
        """Counts a batch: the best classes `(B, up to 5)`, best first, and the right one of each image `(B,)`."""
        right = best == labels[:, None]
        self.top1 += int(right[:, 0].sum())
        self.top5 += int(right.any(1).sum())
        self.images += len(labels)

    def merge(self, other: Hits) -> None:
        """Adds the counts of another process."""
        self.top1, self.top5, self.images = self.top1 + other.top1, self.top5 + other.top5, self.images + other.images

    def scores(self) -> dict[str, float | None]:
        """`top1` and `top5` in per cent; None without an image."""
        return {
            name: 100 * right / self.images if self.images else None
            for name, right in (("top1", self.top1), ("top5", self.top5))
        }


@dataclass
class ZeroShot:
    """What was counted.

    Attributes:
        hits: Name of a CLIP -> input size -> its counts.
        unreadable: (file, why) of images that could not be read; they count nowhere.
    """

    hits: dict[str, dict[int, Hits]]
    unreadable: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Images that could be read."""
        return next(hits.images for by_size in self.hits.values() for hits in by_size.values())

    def merge(self, other: ZeroShot) -> None:
        """Adds the counts of another process."""
        for name, of_size in other.hits.items():
            for size, hits in of_size.items():
                self.hits[name][size].merge(hits)
        self.unreadable += other.unreadable


@torch.inference_mode()
def classify_images(
    folders: ClassFolders,
    clips: Sequence[Clip],
    rows: Sequence[Tensor],
    sizes: Sequence[int],
    *,
    resize: str,
    batch: int = 32,
    limit: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> ZeroShot | None:
    """Names each image by the class whose text row is nearest to its embedding.

    Args:
        folders: The images.
        clips: The CLIPs.
        rows: Unit text rows `(C, D)` of all classes, for each CLIP.
        sizes: Sides of the square images that the CLIPs see, in pixels.
        resize: How an image becomes such a square, one of `RESIZES`.
        batch: Images that go through a tower at once.
        limit: Only so many images, spread evenly over the sorted files; None: all.
        advance: Called after each image of this process.

    Returns:
        The counts over all processes in the first one; None in the others.
    """
    result = ZeroShot({clip.name: {size: Hits() for size in sizes} for clip in clips})
    transforms = {size: _transform(size, resize) for size in sizes}
    for images, labels in _batches(folders, batch, limit, result.unreadable, advance):
        truth = torch.tensor(labels)
        for size, transform in transforms.items():
            pixels = torch.stack([transform(Image.fromarray(image)) for image in images])
            for clip, own in zip(clips, rows, strict=True):
                embeddings = F.normalize(clip.embed_images(pixels.to(clip.device)).float(), dim=-1)
                best = (embeddings @ own.T).topk(min(TOP, len(own)), dim=-1).indices
                result.hits[clip.name][size].add(best.cpu(), truth)
    parts = gathered(result)
    if parts is None:
        return None
    for other in parts[1:]:
        parts[0].merge(other)
    return parts[0]


def chosen(count: int, limit: int | None) -> list[int]:
    """Indices of at most `limit` of `count` sorted images, spread evenly, so that all classes have their share."""
    if limit is None or limit >= count:
        return list(range(count))
    return [index * count // limit for index in range(limit)]


def _batches(
    folders: ClassFolders,
    batch: int,
    limit: int | None,
    unreadable: list[tuple[Path, str]],
    advance: Callable[[], None],
) -> Iterator[tuple[list[np.ndarray], list[int]]]:
    images: list[np.ndarray] = []
    labels: list[int] = []
    for index in chosen(len(folders), limit)[rank() :: world_size()]:
        try:
            images.append(read_photograph(folders.files[index]).pixels)
            labels.append(folders.labels[index])
        except ImageError as error:
            unreadable.append((folders.files[index], str(error)))
        if len(images) == batch:
            yield images, labels
            images, labels = [], []
        advance()
    if images:
        yield images, labels


def _transform(size: int, resize: str) -> Callable[[Image.Image], Tensor]:
    """open_clip's own preparation of an image: bicubic, normalized with CLIP's mean and deviation."""
    from open_clip import image_transform

    return image_transform(size, is_train=False, resize_mode=RESIZES[resize])
