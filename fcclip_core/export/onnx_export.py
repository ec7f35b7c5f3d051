"""FC-CLIP as an ONNX graph of fixed shape: image in, `ModelOutput`'s four tensors out, independent of the vocabulary.

`torch.export` captures the network with literal sizes, constants are folded, and torch's TorchScript exporter writes
the graph. The newer exporter starts at opset 18. JetPack's older TensorRT reads up to opset 17, and graphs converted
down to it are rejected by ONNX Runtime (torch 2.15 with onnxscript 0.7).
"""

from __future__ import annotations

import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from fcclip_core.errors import BackendError
from fcclip_core.export.constants import capture
from fcclip_core.export.input_spec import PRECISIONS, InputSpec
from fcclip_core.model.deformable_attention import Sampler, sample_by_gather, set_sampler
from fcclip_core.model.fcclip import FCCLIP
from fcclip_core.model.mask_decoder import set_attend
from fcclip_core.model.precision import at_least_float32, in_precision

OPSET = 17
INPUT = "image"
OUTPUTS = ("mask_logits", "in_vocab_embedding", "out_vocab_embedding", "mask_survives")
"""Fields of `ModelOutput`, in order: float32, except for the last, which is bool."""

_BLOCKED = -1e9
"""Added to masked attention scores: their softmax is exactly 0 in float32, and never NaN."""


class ExportableForm(nn.Module):
    """The network with operations that every graph format supports: gathers, matrix products, additive masks.

    It shares unchanged weights with the original network, which is not modified.
    """

    def __init__(self, model: FCCLIP, precision: str, sampler: Sampler = sample_by_gather) -> None:
        """Converts `model` to `precision`, a key of `PRECISIONS`, with the given deformable attention."""
        super().__init__()
        self._dtype = PRECISIONS[precision]
        self.network = in_precision(model, self._dtype)
        set_sampler(self.network, sampler)
        set_attend(self.network, attend_by_bias)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """`image` float32 `(B, 3, h, w)`, normalized, padded to multiples of 32 -> the fields of `ModelOutput`."""
        output = self.network(image.to(self._dtype))
        return tuple(x.float() if x.is_floating_point() else x for x in vars(output).values())


def attend_by_bias(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> Tensor:
    """Attention with an additive mask; shapes as `mask_decoder.Attend`, with at least one allowed key per query."""
    scores = at_least_float32(query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2))
    if allowed is not None:
        scores = scores + torch.where(allowed, 0.0, _BLOCKED)
    return scores.softmax(-1).to(value.dtype) @ value


@torch.inference_mode(False)
@torch.no_grad()
def export_onnx(model: FCCLIP, spec: InputSpec, sampler: Sampler = sample_by_gather) -> bytes:
    """Exports `model` as an ONNX file for images of one shape.

    Args:
        model: The network, which is not modified.
        spec: Shape and precision of the graph.
        sampler: Implementation of deformable attention: gathers, which every runtime supports, or `plugin_sampler`.

    Returns:
        The file: opset 17, input `INPUT` float32 `spec.shape`, outputs `OUTPUTS`.

    Raises:
        BackendError: torch cannot export the network.
    """
    if find_spec("onnx") is None:
        raise BackendError("exporting graphs requires the package onnx; pip install onnx")
    image = torch.zeros(spec.shape, device=next(model.parameters()).device)
    try:
        graph = capture(ExportableForm(model, spec.precision, sampler), image)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            # The exporter warns that it is deprecated, and about steps that it leaves to the runtimes.
            warnings.simplefilter("ignore")
            path = Path(folder) / "graph.onnx"
            torch.onnx.export(
                graph,
                (image,),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
            )
            return path.read_bytes()
    except (RuntimeError, OSError, ImportError, torch.onnx.OnnxExporterError) as error:
        raise BackendError(f"torch {torch.__version__} cannot export the network for {spec}: {error}") from error
