"""kMaX-DeepLab's reference numbers (KMAX_NOTES.md): weights and inputs from their rules, and our decoders, observed.

A case is a name.json, which describes the decoders and the inputs, beside a name.npz; nothing else is known of it here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from checkout import ROOT
from fcclip_core.model.axial_pixel_decoder import AxialPixelDecoder
from fcclip_core.model.backbone import FeaturePyramid
from fcclip_core.model.decoder_config import AxialPixelDecoderConfig, KMeansDecoderConfig
from fcclip_core.model.kmeans_decoder import KMeansDecoder, KMeansPrediction
from fcclip_core.model.kmeans_layer import owned_pixels
from fcclip_core.model.pixel_decoder import PixelDecoderOutput
from fcclip_core.weights.kmax_names import CLASS_HEAD
from fcclip_core.weights.published_names import published_name
from oracle.kmax_draws import draw, feature

FOLDER = Path(os.environ.get("FCCLIP_KMAX_REFERENCE", ROOT / "test/reference"))
"""Where cases are; others than the project's own are compared by setting the variable to their folder."""
EMBED_DIM = 64
"""Of FC-CLIP's class branch, which kMaX lacks and no case measures."""


class Rules:
    """Weights by name, as kmax_spec.json says."""

    def __init__(self, folder: Path, tag: str) -> None:
        weights = json.loads((folder / "kmax_spec.json").read_text())["weights"]
        self._tables, self._defaults, self._tag = weights["tables"], weights["defaults"], tag

    def tensor(self, key: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of a published key."""
        last = key.rpartition(".")[2]
        if last == "num_batches_tracked":
            return torch.zeros(shape, dtype=torch.int64)
        value = draw(self._tag + key, shape)
        if last == "running_mean":
            value = np.float32(0.05) * value
        elif last == "running_var":
            value = self._number("running_var", key) * (1 + np.float32(0.1) * np.abs(value))
        elif re.search(r"(_cluster_centers|_rpe\._embeddings)\.weight$", key):
            pass
        elif value.ndim > 1:
            rows = value.reshape(len(value), -1)
            rows = rows - rows.mean(1, dtype=np.float64, keepdims=True).astype(np.float32)
            value = (rows * np.float32(self._number("gain", key) / np.sqrt(rows.shape[1]))).reshape(shape)
        elif last == "weight":
            value = self._number("norm_weight", key) * (1 + np.float32(0.1) * value)
        else:
            value = np.float32(0.05) * value + self._number("shift", key)
        return torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))

    def _number(self, table: str, key: str) -> np.float32:
        hits = (number for pattern, number in self._tables[table] if re.search(pattern, key))
        return np.float32(next(hits, self._defaults[table]))


@dataclass(frozen=True)
class Case:
    """One run of the reference.

    Attributes:
        name: Base name of its files.
        folder: Where they are.
    """

    name: str
    folder: Path = FOLDER

    @cached_property
    def info(self) -> dict[str, Any]:
        return json.loads((self.folder / f"{self.name}.json").read_text())

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / f"{self.name}.npz") as archive:
            return {key: archive[key] for key in archive.files}

    @cached_property
    def rules(self) -> Rules:
        return Rules(self.folder, self.info["weights_tag"])

    @property
    def has_pixels(self) -> bool:
        return "backbone_channels" in self.info

    @property
    def has_queries(self) -> bool:
        return "num_queries" in self.info

    def feature(self, name: str, channels: int, stride: int) -> Tensor:
        """An input map by the rule."""
        info = self.info
        shape = (info["batch"], channels, *self.size(stride))
        return feature(f"{info['input_tag']}:{name}", shape, info["coarse_grid"], info["coarse_weight"])

    def size(self, stride: int) -> tuple[int, int]:
        """Height and width of the map at a stride."""
        height, width = self.info["sizes"][str(stride)]
        return height, width


class Reference:
    """Our decoders with a case's weights, and what they compute on its inputs."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.stages: dict[str, Tensor] = {}
        self.pixel_decoder = _pixel_decoder(case) if case.has_pixels else None
        self.mask_decoder = _mask_decoder(case) if case.has_queries else None

    @torch.no_grad()
    def run(self) -> None:
        """Fills `stages`, the reference's array names -> full tensors."""
        with _observed(self.pixel_decoder, self.mask_decoder, self.stages):
            pixels = self._pixels()
            if self.mask_decoder is not None:
                self._masks(self.mask_decoder.predictions(pixels))

    def _pixels(self) -> PixelDecoderOutput:
        if self.pixel_decoder is not None:
            return self.pixel_decoder(pyramid(self.case))
        return drawn_pixels(self.case)

    def _masks(self, predictions: tuple[KMeansPrediction, ...]) -> None:
        depths = [f"dec.{index}" for index in range(len(predictions) - 1)]
        for depth, prediction in zip(depths, predictions, strict=False):
            self.stages[f"{depth}.mask_logits_resized"] = prediction.mask_logits
            self.stages[f"{depth}.pixel_feature_resized"] = prediction.pixel_features
        for depth in (*depths, "dec.final"):
            logits = self.stages[f"{depth}.mask_logits"]
            self.stages[f"{depth}.argmax"] = logits.argmax(1)
            self.stages[f"{depth}.counts"] = owned_pixels(logits).sum((2, 3))
            embedding = "dec.final.class_embedding" if depth == "dec.final" else f"{depth}.query_space"
            self.stages[f"{depth}.class_logits"] = self._class_logits(depth, self.stages[embedding])

    def _class_logits(self, depth: str, embedding: Tensor) -> Tensor:
        """kMaX's own classifier, which FC-CLIP replaces: a linear head, and a constant on void."""
        classes, dim = self.case.info["num_classes"], embedding.shape[1]
        layer = "" if depth == "dec.final" else f"._kmax_transformer_layers.{depth.removeprefix('dec.')}"
        head = f"sem_seg_head.predictor{layer}._predcitor{CLASS_HEAD}conv."
        weight = self.case.rules.tensor(head + "weight", (classes + 1, dim, 1)).squeeze(-1)
        logits = embedding.transpose(1, 2) @ weight.T + self.case.rules.tensor(head + "bias", (classes + 1,))
        logits[..., -1] += np.log(classes * 0.9 / 0.1)
        return logits


def pyramid(case: Case) -> FeaturePyramid:
    """The backbone's features of a case."""
    channels = case.info["backbone_channels"]
    return FeaturePyramid(
        *(case.feature(name, channels[name], stride) for name, stride in zip(channels, (4, 8, 16, 32), strict=True))
    )


def drawn_pixels(case: Case) -> PixelDecoderOutput:
    """The decoder's inputs of a case without a pixel decoder."""
    channels = case.info["decoder_in_channels"]
    strides = (32, 16, 8, 4)
    maps = [case.feature(f"os{stride}", width, stride) for stride, width in zip(strides, channels, strict=True)]
    return PixelDecoderOutput(maps[3], (maps[0], maps[1], maps[2]))


def _pixel_decoder(case: Case) -> AxialPixelDecoder:
    info = case.info
    config = AxialPixelDecoderConfig(widths=tuple(info["dec_channels"]), blocks=tuple(info["dec_layers"]))
    channels = [info["backbone_channels"][name] for name in ("res2", "res3", "res4", "res5")]
    return filled(AxialPixelDecoder(config, channels), "pixel_decoder.", case.rules)


def _mask_decoder(case: Case) -> KMeansDecoder:
    info = case.info
    channels = info.get("decoder_in_channels") or [4 * width for width in info["dec_channels"]]
    config = KMeansDecoderConfig(queries=info["num_queries"])
    return filled(KMeansDecoder(config, channels, EMBED_DIM), "mask_decoder.", case.rules)


def filled(module: Any, prefix: str, rules: Rules) -> Any:
    """`module` in eval mode with the rules' weights; our own class branch has the same rules under its own names."""
    state: Mapping[str, Tensor] = module.state_dict()
    module.load_state_dict(
        {name: rules.tensor(published_name(prefix + name), tuple(tensor.shape)) for name, tensor in state.items()}
    )
    return module.eval()


@contextmanager
def _observed(
    pixels: AxialPixelDecoder | None, masks: KMeansDecoder | None, stages: dict[str, Tensor]
) -> Iterator[None]:
    handles = []

    def output(module: nn.Module, *names: str) -> None:
        def hook(_: nn.Module, __: tuple, result: Any) -> None:
            for name, tensor in zip(names, result if isinstance(result, tuple) else (result,), strict=False):
                stages[name] = tensor

        handles.append(module.register_forward_hook(hook))

    def argument(module: nn.Module, name: str) -> None:
        handles.append(module.register_forward_pre_hook(lambda _, given: stages.__setitem__(name, given[0])))

    for name, module in _pixel_modules(pixels) if pixels is not None else ():
        output(module, name)
    if masks is not None:
        for index, layer in enumerate(masks.kmeans_layers):
            depth = f"dec.{index}"
            for name, module in _layer_modules(layer):
                output(module, f"{depth}.{name}")
            argument(layer.sum_norm, f"{depth}.kmeans_sum")
            output(layer.predictor, f"{depth}.mask_logits", f"{depth}.pixel_feature")
            output(layer, f"{depth}.queries")
        final = masks.predictor
        output(masks.class_projection, "dec.final.class_embedding")
        output(masks.mask_projection, "dec.final.mask_embedding")
        output(final.depthwise, "dec.final.pixel_depthwise")
        output(final.expand, "dec.final.pixel_256")
        output(final.kernel, "dec.final.mask_kernel")
        output(final, "dec.final.mask_logits", "dec.final.pixel_feature")
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pixel_modules(decoder: Any) -> Iterator[tuple[str, nn.Module]]:
    for index, norm in enumerate(decoder.in_norms):
        yield f"pix.in_norm.{index}", norm
    for index, fuse in enumerate(decoder.fuses):
        yield f"pix.fuse.{index}", fuse
    for number, stage in enumerate(decoder.stages):
        for index, block in enumerate(stage):
            name = f"pix.stage.{number}.block.{index}"
            yield name, block
            yield f"{name}.conv1", block.conv1
            if hasattr(block, "attention"):
                for axis in ("height", "width"):
                    attention = getattr(block.attention, axis)
                    yield f"{name}.{axis}", attention
                    yield f"{name}.{axis}.similarity", attention.similarity_norm


def _layer_modules(layer: Any) -> Iterator[tuple[str, nn.Module]]:
    yield "pixel_space", layer.pixel_projection
    yield "query_space", layer.query_projection
    yield "pixel_value", layer.value
    yield "pixel_256", layer.predictor.expand
    yield "mask_kernel", layer.predictor.kernel
    yield "kmeans_update", layer.update
    yield "self_similarity", layer.attention.similarity_norm
    yield "self_update", layer.attention_out
    yield "ffn_update", layer.contract
