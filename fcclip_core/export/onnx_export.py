"""FC-CLIP as an ONNX graph of fixed shape: an image in, `ModelOutput`'s four tensors out, no words anywhere.

`torch.export` captures the network with every size a literal, what does not depend on the image is folded, and torch's
TorchScript exporter writes it. The newer exporter starts at opset 18, and its conversion to 17, the newest that
JetPack's older TensorRT reads, gives graphs that ONNX Runtime refuses (torch 2.15 with onnxscript 0.7).
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
"""Fields of `ModelOutput`, in order: float32 but for the last, which is bool."""

_BLOCKED = -1e9
"""Added to an attention score that must not count: its softmax is exactly 0 in float32, and never NaN."""


class ExportableForm(nn.Module):
    """The network with operations that every graph format has: gathers, products, additive masks.

    It shares unchanged weights with the network that it is made from, and leaves that one as it is.
    """

    def __init__(self, model: FCCLIP, precision: str, sampler: Sampler = sample_by_gather) -> None:
        """Takes `model` in `precision`, a key of `PRECISIONS`, with one form of deformable attention."""
        super().__init__()
        self._dtype = PRECISIONS[precision]
        self.network = in_precision(model, self._dtype)
        set_sampler(self.network, sampler)
        set_attend(self.network, attend_by_bias)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`image` float32 `(B, 3, h, w)`, normalized, padded to multiples of 32 -> the fields of `ModelOutput`."""
        output = self.network(image.to(self._dtype))
        return (
            output.mask_logits.float(),
            output.in_vocab_embedding.float(),
            output.out_vocab_embedding.float(),
            output.mask_survives,
        )


def attend_by_bias(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> Tensor:
    """Attention whose mask is added to the scores; shapes as `mask_decoder.Attend`, at least one key allowed a row."""
    scores = at_least_float32(query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2))
    if allowed is not None:
        scores = scores + torch.where(allowed, 0.0, _BLOCKED)
    return scores.softmax(-1).to(value.dtype) @ value


@torch.inference_mode(False)
@torch.no_grad()
def export_onnx(model: FCCLIP, spec: InputSpec, sampler: Sampler = sample_by_gather) -> bytes:
    """Writes `model` as an ONNX file for images of one form.

    Args:
        model: The network, which stays as it is.
        spec: Shape and precision of the graph.
        sampler: How deformable attention samples: gathers, which every runtime has, or `plugin_sampler`.

    Returns:
        The file: opset 17, input `INPUT` float32 `spec.shape`, outputs `OUTPUTS`.

    Raises:
        BackendError: torch cannot export it here.
    """
    if find_spec("onnx") is None:
        raise BackendError("writing graphs needs the package onnx; pip install onnx")
    image = torch.zeros(spec.shape, device=next(model.parameters()).device)
    try:
        graph = capture(ExportableForm(model, spec.precision, sampler), image)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            # The exporter is called deprecated, and warns of steps that it leaves to the runtimes.
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
