"""OpenVINO on the processor: bfloat16 where the processor computes in it, else float32."""

from __future__ import annotations

import torch
from torch import Tensor

from fcclip_core.backends.graph import Exporter, Runner, check_device
from fcclip_core.backends.interface import Progress
from fcclip_core.errors import BackendError
from fcclip_core.export.input_spec import InputSpec
from fcclip_core.export.onnx_export import INPUT, OUTPUTS
from fcclip_core.model.deformable_attention import sample_by_gather

_DEVICE = "CPU"
_PRECISIONS = ("fp32", "bf16")


class OpenVino:
    """Runs graphs as they are: what they hold in float32 is computed in float32."""

    suffix = ".graph"

    def __init__(self, device: torch.device, precision: str) -> None:
        """Looks for the library.

        Args:
            device: Must be the CPU.
            precision: "auto" (bf16 if the processor has it, else fp32), "fp32" or "bf16".

        Raises:
            BackendError: The library is missing, or cannot run this.
        """
        try:
            import openvino
        except ImportError as error:
            raise BackendError(f"OpenVINO cannot be imported ({error}); pip install openvino") from error
        check_device("OpenVINO", device, "cpu")
        self._core = openvino.Core()
        if precision == "auto":
            has_bf16 = "BF16" in self._core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
            precision = "bf16" if has_bf16 else "fp32"
        if precision not in _PRECISIONS:
            choice = " or ".join(_PRECISIONS)
            raise BackendError(f"OpenVINO does not compute in {precision} on a processor; choose {choice}")
        self.precision = precision
        self.name = f"OpenVINO {openvino.__version__.split('-')[0]} {precision}"
        self.key = {"file": "ONNX"}

    def build(self, export: Exporter, progress: Progress) -> bytes:
        """The graph itself: the library compiles it in seconds, for this processor, when it loads it."""
        return export(sample_by_gather)

    def load(self, built: bytes, spec: InputSpec) -> Runner:
        """Compiles the graph for as many threads as torch has.

        Raises:
            BackendError: The library refuses the graph.
        """
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            # "As the graph has it". The hint bf16 would shorten everything, sampling coordinates too, which is far off.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        try:
            compiled = self._core.compile_model(self._core.read_model(built), _DEVICE, options)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO refuses the graph for {spec}: {error}") from error
        request = compiled.create_infer_request()

        def run(image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            found = request.infer({INPUT: image.contiguous().numpy()}, share_inputs=True)
            masks, in_vocab, out_vocab, survives = (torch.from_numpy(found[name]) for name in OUTPUTS)
            return masks, in_vocab, out_vocab, survives

        return run
