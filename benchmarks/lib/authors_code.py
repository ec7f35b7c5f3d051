"""The authors' own code (bytedance/fc-clip) from the user's checkout, with the same weights and vocabulary.

It needs detectron2 and its own requirements. Nothing of it is copied here.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.lib.clocks import clocks
from fcclip_core.settings import InferenceSettings
from fcclip_core.weights.checkpoints import Checkpoint
from oracle.pipeline import Words
from oracle.trace import Trace

CONFIG = "configs/coco/panoptic-segmentation/fcclip/fcclip_convnext_large_eval_ade20k.yaml"


class CannotRun(Exception):
    """The authors' code cannot run here; the message says why."""


class AuthorsCode:
    """FC-CLIP as published, ready to run on the CPU."""

    def __init__(
        self,
        checkout: Path,
        checkpoint: Checkpoint,
        words: Words,
        names: list[list[str]],
        settings: InferenceSettings,
    ) -> None:
        """Builds the published model and gives it our weights and words.

        Raises:
            CannotRun: Not such a checkout, something that it imports is missing, or the weights do not fit.
        """
        if not (checkout / CONFIG).is_file():
            raise CannotRun(f"{checkout} is no checkout of bytedance/fc-clip: it has no {CONFIG}")
        if checkpoint.config.open_clip_name is None:
            raise CannotRun(f"the published code has no preset like {checkpoint.config.name}")
        self._settings = settings
        with _working_in(checkout):
            self._model = _build(checkpoint, settings)
        missing, unexpected = self._model.load_state_dict(dict(checkpoint.state), strict=False)
        missing = [key for key in missing if not _is_text_tower(key) and key != "criterion.empty_weight"]
        if missing or unexpected:
            raise CannotRun(f"weights do not fit: missing {missing[:3]}, unexpected {list(unexpected)[:3]}")
        things = {index: index for index, thing in enumerate(words.is_thing) if thing}
        classes = [",".join(synonyms) for synonyms in names]
        self._model.set_metadata(SimpleNamespace(stuff_classes=classes, thing_dataset_id_to_contiguous_id=things))
        self._model.category_overlapping_mask = torch.tensor(words.seen, dtype=torch.long)
        self._model.test_text_classifier = words.rows
        self._model.eval()

    @torch.no_grad()
    def run(self, image: np.ndarray, trace: Trace) -> dict[str, Any]:
        """One image, timed under the oracle's names of the stages."""
        from detectron2.data.transforms import ResizeShortestEdge

        model, settings = self._model, self._settings
        head = model.sem_seg_head
        places = [
            (model.backbone, "forward", "backbone"),
            (head.pixel_decoder, "forward_features", "pixel decoder"),
            (head.predictor, "forward", "mask decoder"),
            (head.predictor, "forward_prediction_heads", "prediction heads"),
            (model.backbone, "visual_prediction_forward", "classification"),
            (model, "panoptic_inference", "panoptic"),
            (model, "semantic_inference", "semantic"),
            (model, "instance_inference", "instances"),
        ]
        with clocks(places, trace), trace.stage("total"):
            with trace.stage("preprocess"):
                resize = ResizeShortestEdge([settings.shorter_side] * 2, settings.max_size).get_transform(image)
                pixels = torch.from_numpy(resize.apply_image(image).astype(np.float32).transpose(2, 0, 1))
            return model([{"image": pixels, "height": image.shape[0], "width": image.shape[1]}])[0]


def _build(checkpoint: Checkpoint, settings: InferenceSettings) -> Any:
    # Their CUDA extension is imported always and used on GPUs only; calling into an empty one makes their code take its
    # own PyTorch branch, as it does on CPUs.
    sys.modules.setdefault("MultiScaleDeformableAttention", ModuleType("MultiScaleDeformableAttention"))
    try:
        from detectron2.config import get_cfg
        from detectron2.modeling import build_model
        from detectron2.projects.deeplab import add_deeplab_config
        from fcclip import add_fcclip_config, add_maskformer2_config
    except ImportError as error:
        raise CannotRun(f"{error}; it needs detectron2 and what its requirements.txt names") from error
    config = get_cfg()
    for add_defaults in (add_deeplab_config, add_maskformer2_config, add_fcclip_config):
        add_defaults(config)
    config.merge_from_file(CONFIG)
    config.MODEL.DEVICE = "cpu"
    config.MODEL.FC_CLIP.CLIP_MODEL_NAME = checkpoint.config.open_clip_name
    # Without a tag open_clip builds the towers and downloads nothing.
    config.MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS = ""
    config.MODEL.FC_CLIP.EMBED_DIM = checkpoint.config.embed_dim
    config.MODEL.FC_CLIP.ENSEMBLE_ON_VALID_MASK = checkpoint.config.valid_mask_only
    config.MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA = settings.alpha
    config.MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_BETA = settings.beta
    config.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD = settings.object_mask_threshold
    config.MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD = settings.overlap_threshold
    return build_model(config)


def _is_text_tower(key: str) -> bool:
    return key.startswith("backbone.clip_model.") and not key.startswith("backbone.clip_model.visual.")


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """The published code reads its class lists relative to the working directory."""
    before = Path.cwd()
    sys.path.insert(0, str(folder.resolve()))
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
