"""One image through the published inference, start to end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from fcclip_core.model.config import ConvNeXtConfig, ModelConfig, ResNetConfig
from fcclip_core.settings import InferenceSettings
from oracle import backbone, postprocess
from oracle.classification import class_logits, ensemble, mask_pooling
from oracle.mask_decoder import TextClassifier, decode_masks
from oracle.pixel_decoder import decode_pixels
from oracle.trace import Trace
from oracle.weights import Weights

PIXEL_MEAN = (122.7709383, 116.7460125, 104.09373615)
PIXEL_STD = (68.5005327, 66.6321579, 70.32316305)
SIZE_DIVISOR = 32


@dataclass(frozen=True)
class Words:
    """A vocabulary as the published code sees it.

    Attributes:
        rows: float32 (synonyms, D) unit rows, class by class.
        synonym_counts: Synonyms of each class.
        is_thing: Of each class.
        seen: Whether each class belongs to the training vocabulary.
    """

    rows: torch.Tensor
    synonym_counts: tuple[int, ...]
    is_thing: tuple[bool, ...]
    seen: tuple[bool, ...]


@dataclass(frozen=True)
class Published:
    """What the published inference gives for one image.

    Attributes:
        class_probs: (Q, C+1), void last.
        mask_logits: (Q, h/4, w/4), padded frame.
        segment_map: int32 (H, W).
        segments: Records of the segments.
        semantic: (C, H, W) class sums.
        instances: Instances, unsorted.
    """

    class_probs: torch.Tensor
    mask_logits: torch.Tensor
    segment_map: torch.Tensor
    segments: list[postprocess.SegmentInfo]
    semantic: torch.Tensor
    instances: postprocess.InstanceTable


@torch.no_grad()
def segment(
    tensors: Mapping[str, torch.Tensor],
    config: ModelConfig,
    image: np.ndarray,
    words: Words,
    settings: InferenceSettings,
    trace: Trace | None = None,
) -> Published:
    """Segments one uint8 RGB image (H, W, 3) with a checkpoint's tensors, noting every stage in `trace`.

    Weights and rows in float64 make everything float64 but the position codes.
    """
    trace = Trace(keep=False) if trace is None else trace
    weights = Weights(tensors)
    with trace.stage("preprocess"):
        tensor, resized = prepare(image, settings, trace)
        tensor = tensor.to(weights["void_embedding.weight"].dtype)
    with trace.stage("backbone"):
        features = backbone.features(weights, config, tensor, trace)
    void = F.normalize(weights["void_embedding.weight"], dim=-1)
    text = TextClassifier(torch.cat([words.rows, void]), words.synonym_counts)
    with trace.stage("pixel decoder"):
        mask_features, levels = decode_pixels(weights, config, features, trace)
    with trace.stage("mask decoder"):
        in_logits, masks = decode_masks(weights, config, levels, mask_features, text, trace)
    with trace.stage("classification"):
        scores = _classify(weights, config, features["clip_vis_dense"], in_logits, masks, text, words, settings, trace)

    original = (int(image.shape[0]), int(image.shape[1]))
    padded = (int(tensor.shape[-2]), int(tensor.shape[-1]))
    with trace.stage("enlarge masks"):
        large = trace.note("post.mask_pred", postprocess.enlarge(masks[0], padded, resized, original))
    is_thing = list(words.is_thing)
    with trace.stage("semantic"):
        class_sums = trace.note("post.sem_seg", postprocess.semantic(scores, large))
        trace.note("post.sem_argmax", class_sums.argmax(0))
    with trace.stage("panoptic"):
        segment_map, segments = postprocess.panoptic(
            scores, large, is_thing, settings.object_mask_threshold, settings.overlap_threshold
        )
    with trace.stage("instances"):
        table = postprocess.instances(scores, large, is_thing, settings.top_k_instances)
    return Published(scores.softmax(-1), masks[0], segment_map, segments, class_sums, table)


def prepare(image: np.ndarray, settings: InferenceSettings, trace: Trace) -> tuple[torch.Tensor, tuple[int, int]]:
    """Resize on uint8, normalize, pad right and below with 0: (1, 3, h, w) and the size before padding."""
    height, width = image.shape[:2]
    size = resized_size(height, width, settings)
    small = np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    trace.note("resized", torch.from_numpy(small))
    pixels = torch.from_numpy(small).permute(2, 0, 1).float()
    pixels = (pixels - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
    padding = (0, -size[1] % SIZE_DIVISOR, 0, -size[0] % SIZE_DIVISOR)
    return trace.note("input_tensor", F.pad(pixels, padding)[None]), size


def resized_size(height: int, width: int, settings: InferenceSettings) -> tuple[int, int]:
    """Size (height, width) after the test-time resize, computed in double precision and rounded half up."""
    scale = settings.shorter_side / min(height, width)
    new_height, new_width = height * scale, width * scale
    if height < width:
        new_height = float(settings.shorter_side)
    else:
        new_width = float(settings.shorter_side)
    if max(new_height, new_width) > settings.max_size:
        shrink = settings.max_size / max(new_height, new_width)
        new_height, new_width = new_height * shrink, new_width * shrink
    # The published code fails on images so thin that a side rounds to 0.
    return max(int(new_height + 0.5), 1), max(int(new_width + 0.5), 1)


def _classify(
    weights: Weights,
    config: ModelConfig,
    dense: torch.Tensor,
    in_logits: torch.Tensor,
    masks: torch.Tensor,
    text: TextClassifier,
    words: Words,
    settings: InferenceSettings,
    trace: Trace,
) -> torch.Tensor:
    """Out-of-vocabulary classification of the final masks and the ensemble: (Q, C+1) logarithms of probabilities."""
    small = F.interpolate(masks, size=dense.shape[-2:], mode="bilinear", align_corners=False)
    area = (small > 0).to(small).sum(-1).sum(-1)
    trace.note("cls.out_mask_area", area[0])
    if isinstance(config.vision, ConvNeXtConfig):
        pooled = trace.note("cls.out_pooled", mask_pooling(dense, small))
        embedding = backbone.convnext_head(weights, pooled)
    else:
        assert isinstance(config.vision, ResNetConfig)
        embedding = backbone.resnet_head(weights, config.vision, dense, small)
    trace.note("cls.out_embed", embedding)
    scale = weights["backbone.clip_model.logit_scale"]
    out_logits = trace.note("cls.out_logits", class_logits(embedding, text.rows, scale, words.synonym_counts))
    valid_only = config.valid_mask_only if settings.valid_mask_only is None else settings.valid_mask_only
    valid = (area > 0).to(in_logits.dtype) if valid_only else None
    seen = torch.tensor(words.seen, dtype=torch.float32)
    mixed = ensemble(in_logits, out_logits, seen, settings.alpha, settings.beta, valid)
    for name in ("in_probs", "out_probs", "void_prob", "ensemble_probs"):
        trace.note(f"cls.{name}", mixed[name])
    return trace.note("post.mask_cls", mixed["scores"][0])
