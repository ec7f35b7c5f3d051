"""Our own model seen from outside: what happens inside `Segmenter`, under the published stages' names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fcclip_core import Segmenter, Vocabulary
from fcclip_core.inference.classification import TextClassifier
from fcclip_core.inference.mask_resize import MaskResizer
from fcclip_core.inference.preprocess import FrameGeometry, preprocess
from fcclip_core.model.fcclip import FCCLIP, ModelOutput
from fcclip_core.model.pixel_decoder import PixelDecoderOutput, sine_position
from fcclip_core.vocabulary.classes import VocabularyClass
from oracle.pipeline import Words


class OneImageBackend:
    """Runs the network once for an image that comes again and again: only the settings after it change."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.network = segmenter._backend
        self.device, self.description = self.network.device, self.network.description
        self._answers: list[tuple[Tensor, ModelOutput]] = []

    def remember(self, image: Tensor, answer: ModelOutput) -> ModelOutput:
        """Gives `answer` whenever `image` comes again."""
        self._answers.append((image, answer))
        return answer

    def __call__(self, image: Tensor) -> ModelOutput:
        for known, answer in self._answers:
            if known.shape == image.shape and torch.equal(known, image):
                return answer
        return self.remember(image, self.network(image))


def vocabulary_of(words: Words, names: list[list[str]]) -> Vocabulary:
    """The oracle's words as our vocabulary; seen and unseen are forced."""
    return Vocabulary(
        tuple(
            VocabularyClass(tuple(synonyms), is_thing=thing, seen=seen)
            for synonyms, thing, seen in zip(names, words.is_thing, words.seen, strict=True)
        )
    )


def class_indices(segmenter: Segmenter, class_ids: np.ndarray) -> np.ndarray:
    """Stable ids -> positions in the vocabulary in force."""
    snapshot = segmenter.vocabulary
    assert snapshot is not None
    table = np.full(max(snapshot.class_ids) + 1, -1)
    table[list(snapshot.class_ids)] = np.arange(len(snapshot.class_ids))
    return table[class_ids]


@torch.inference_mode()
def observe(segmenter: Segmenter, image: np.ndarray) -> dict[str, Tensor]:
    """Runs one image and returns its stages, named as in test/reference/spec.json, `arrays`.

    The segmenter's backend must be a `OneImageBackend`: the image will not be run again for its results.
    """
    model, backend = segmenter._model, segmenter._backend
    assert isinstance(backend, OneImageBackend)
    snapshot = segmenter.vocabulary
    assert snapshot is not None
    tensor, geometry = preprocess(image, segmenter.settings, segmenter.device)
    stages: dict[str, Tensor] = {"input_tensor": tensor}
    with _watching(model, stages):
        # A remembered answer has no stages to watch.
        output = backend.remember(tensor, backend.network(tensor))
    prediction = segmenter.predict(image)
    shapes = [stages[f"pix.multi_scale.{level}"].shape[-2:] for level in range(3)]
    dim = model.config.mask_decoder.dim
    positions = [sine_position(height, width, dim, segmenter.device).flatten(1) for height, width in shapes]
    stages["pix.pos"] = torch.cat(positions, dim=1)[None]
    stages["pix.shapes"] = torch.tensor(shapes)
    _add_heads(model, snapshot.classifier, stages)
    classifier = snapshot.classifier
    stages |= {
        "cls.in_embed": output.in_vocab_embedding,
        "cls.out_embed": output.out_vocab_embedding,
        "cls.out_logits": classifier.logits(output.out_vocab_embedding, classifier.out_vocab_scale),
        "cls.in_probs": prediction.in_vocab_probs[None],
        "cls.out_probs": prediction.out_vocab_probs[None],
        "cls.void_prob": prediction.class_probs[None, :, -1:],
        "post.mask_pred": _enlarged(prediction.mask_logits, geometry),
        "class_probs": prediction.class_probs,
    }
    return stages


def _enlarged(mask_logits: Tensor, geometry: FrameGeometry) -> Tensor:
    resizer = MaskResizer(geometry, (mask_logits.shape[1], mask_logits.shape[2]), mask_logits.device)
    return torch.cat([band.clone() for _, band in resizer.bands(mask_logits)], dim=1)


def _add_heads(model: FCCLIP, classifier: TextClassifier, stages: dict[str, Tensor]) -> None:
    """The full prediction head after every layer; ours needs only the last one and never computes the others."""
    decoder: Any = model.mask_decoder
    states = [decoder.query_content.weight[None]]
    states += [stages[f"dec.{index}.ffn"].transpose(0, 1) for index in range(model.config.mask_decoder.layers)]
    for index, state in enumerate(states):
        predicted = decoder.predict(state, stages["pix.mask_features"])
        embedding = predicted.in_vocab_embedding
        logits = classifier.logits(embedding, classifier.in_vocab_scale)
        stages[f"dec.head.{index}.masks"] = predicted.mask_logits
        stages[f"dec.head.{index}.logits"] = torch.cat((logits, classifier.void_logits(embedding)), dim=-1)


@contextmanager
def _watching(model: FCCLIP, stages: dict[str, Tensor]) -> Iterator[None]:
    handles = []

    def output(module: nn.Module, name: str, swap: bool = False) -> None:
        def hook(_: nn.Module, __: tuple[Any, ...], result: Tensor) -> None:
            stages[name] = result.transpose(0, 1) if swap else result

        handles.append(module.register_forward_hook(hook))

    def argument(module: nn.Module, name: str, position: int = 0) -> None:
        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            stages[name] = arguments[position]

        handles.append(module.register_forward_pre_hook(hook))

    def levels(_: nn.Module, __: tuple[Any, ...], result: PixelDecoderOutput) -> None:
        for level, tensor in enumerate(result.levels):
            stages[f"pix.multi_scale.{level}"] = tensor

    for name, module in _backbone_stages(model.backbone).items():
        output(module, name)
    pixels: Any = model.pixel_decoder
    decoder: Any = model.mask_decoder
    handles.append(pixels.register_forward_hook(levels))
    for level, projection in enumerate(pixels.input_proj):
        output(projection, f"pix.input_proj.{level}")
    for index, layer in enumerate(pixels.layers):
        output(layer.attention, f"pix.enc.{index}.attn")
        output(layer, f"pix.enc.{index}")
    output(pixels.lateral_norm, "pix.lateral")
    argument(pixels.output, "pix.fpn_in")
    argument(pixels.mask_features, "pix.fpn_out")
    output(pixels.mask_features, "pix.mask_features")
    for index, layer in enumerate(decoder.layers):
        argument(layer, f"dec.head.{index}.allowed", 4)
        output(layer.cross_attention_norm, f"dec.{index}.cross", swap=True)
        output(layer.self_attention_norm, f"dec.{index}.self", swap=True)
        output(layer, f"dec.{index}.ffn", swap=True)
    output(decoder.mask_embed, "cls.mask_embed")
    argument(decoder.mask_pooling_proj, "cls.in_pooled")
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _backbone_stages(backbone: Any) -> dict[str, nn.Module]:
    if hasattr(backbone, "trunk"):
        stages = {f"feat.res{index}": stage for index, stage in enumerate(backbone.trunk.stages, start=2)}
        return {"feat.stem": backbone.trunk.stem, **stages}
    stages = {f"feat.res{index}": getattr(backbone, f"layer{index - 1}") for index in range(2, 6)}
    return {"feat.stem": backbone.act3, **stages}
