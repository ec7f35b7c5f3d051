"""ONNX Runtime on the processor."""

from __future__ import annotations

import torch
from torch import Tensor

from fcclip_core.backends.graph import Exporter, Runner, check_device
from fcclip_core.backends.interface import Progress
from fcclip_core.errors import BackendError
from fcclip_core.export.input_spec import InputSpec
from fcclip_core.export.onnx_export import INPUT, OUTPUTS
from fcclip_core.model.deformable_attention import sample_by_gather


class OnnxRuntime:
    """Runs graphs in float32 (or float16, which it computes in float32 where it has no other way)."""

    suffix = ".graph"

    def __init__(self, device: torch.device, precision: str) -> None:
        """Looks for the library.

        Args:
            device: Must be the CPU.
            precision: "auto" (float32), or a key of `PRECISIONS` but bf16.

        Raises:
            BackendError: The library is missing, or cannot run this.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendError(f"ONNX Runtime cannot be imported ({error}); pip install onnxruntime") from error
        check_device("ONNX Runtime", device, "cpu")
        if precision == "bf16":
            raise BackendError("ONNX Runtime cannot run bf16 graphs on the processor; choose fp32, or openvino")
        self._library = onnxruntime
        self.precision = "fp32" if precision == "auto" else precision
        self.name = f"ONNX Runtime {onnxruntime.__version__} {self.precision}"
        self.key = {"file": "ONNX"}

    def build(self, export: Exporter, progress: Progress) -> bytes:
        """The graph itself: the library optimizes it when it loads it."""
        return export(sample_by_gather)

    def load(self, built: bytes, spec: InputSpec) -> Runner:
        """Makes a session with as many threads as torch has.

        Raises:
            BackendError: The library refuses the graph.
        """
        options = self._library.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # it warns of every node that it cannot fold
        try:
            session = self._library.InferenceSession(built, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base of their own
            raise BackendError(f"ONNX Runtime refuses the graph for {spec}: {error}") from error

        def run(image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            masks, in_vocab, out_vocab, survives = session.run(OUTPUTS, {INPUT: image.contiguous().numpy()})
            return (
                torch.from_numpy(masks),
                torch.from_numpy(in_vocab),
                torch.from_numpy(out_vocab),
                torch.from_numpy(survives),
            )

        return run
