"""Mask average precision, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fcclip_core.datasets.records import PanopticSample
from fcclip_core.evaluation.averages import group_means


class InstanceAP:
    """Collects masks as run-length codes; the ground truth are the thing segments of the panoptic annotation."""

    def __init__(self, things: Sequence[bool]) -> None:
        """Starts without images; `things` has C flags."""
        self._things = tuple(things)
        self._images: list[dict[str, Any]] = []
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def update(
        self, image_id: int, truth: PanopticSample, masks: np.ndarray, classes: np.ndarray, scores: np.ndarray
    ) -> None:
        """Adds an image.

        Args:
            image_id: A number that is unique over all processes.
            truth: The image with its ground truth.
            masks: bool `(N, H, W)`.
            classes: int `(N,)`, 0..C-1.
            scores: float `(N,)`.
        """
        height, width = truth.segment_map.shape
        self._images.append({"id": image_id, "height": height, "width": width})
        for segment in truth.segments:
            if self._things[segment.class_index]:
                mask = _encoded((truth.segment_map == segment.id)[None])[0]
                self._truth.append(_record(image_id, segment.class_index, mask) | {"iscrowd": int(segment.is_crowd)})
        self._found.extend(
            _record(image_id, int(index), mask) | {"score": float(score)}
            for index, mask, score in zip(classes, _encoded(masks), scores, strict=True)
        )

    def merge(self, other: InstanceAP) -> None:
        """Adds the images of another process."""
        self._images += other._images
        self._truth += other._truth
        self._found += other._found

    def per_class(self) -> np.ndarray:
        """AP of each class in per cent (IoU 0.5 to 0.95, 100 detections per image), `(C,)`; NaN if it never occurs."""
        result = np.full(len(self._things), np.nan)
        if not self._truth:
            return result
        things = np.flatnonzero(self._things)
        if not self._found:
            result[sorted({record["category_id"] for record in self._truth if not record["iscrowd"]})] = 0.0
            return result
        precision = self._precision(things)
        # pycocotools gives -1 for absent classes.
        measured = (precision > -1).any((0, 1))
        result[things[measured]] = 100 * precision[..., measured].mean((0, 1))
        return result

    def scores(self, groups: Mapping[str, np.ndarray]) -> dict[str, float | None]:
        """Means over groups of classes: `ap.all`, `ap.seen`, `ap.unseen`, in per cent."""
        means = group_means(self.per_class(), groups)
        return {f"ap.{group}": means[group] for group in ("all", "seen", "unseen")}

    def _precision(self, things: np.ndarray) -> np.ndarray:
        """The precision table `(IoU thresholds, recalls, things)`, all areas, 100 detections."""
        # pycocotools prints to standard output.
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = {
                "info": {},
                "images": self._images,
                "annotations": [{"id": number, **record} for number, record in enumerate(self._truth, 1)],
                "categories": [{"id": int(index), "name": str(index)} for index in things],
            }
            truth.createIndex()
            evaluation = COCOeval(truth, truth.loadRes([dict(record) for record in self._found]), "segm")
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval["precision"][..., 0, -1]


def _encoded(masks: np.ndarray) -> list[dict[str, Any]]:
    """Run-length codes of bool `(N, H, W)`, N of them."""
    return run_lengths.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))) if len(masks) else []


def _record(image_id: int, class_index: int, mask: dict[str, Any]) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": class_index,
        "segmentation": mask,
        "area": float(run_lengths.area(mask)),
        "bbox": run_lengths.toBbox(mask).tolist(),
    }
