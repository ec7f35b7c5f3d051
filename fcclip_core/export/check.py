"""Validates a runtime's output against eager PyTorch before it is used.

Runtimes have silently returned wrong results (NVIDIA/TensorRT issue 4813), so every loaded graph first runs on a test
image. Eager PyTorch's output is kept next to the graph, so validation costs one run, not two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fcclip_core.errors import BackendError
from fcclip_core.export.input_spec import InputSpec
from fcclip_core.model.fcclip import ModelOutput

_MASK_STEP = 4
"""Every fourth row and column of the mask logits is compared."""


@dataclass(frozen=True)
class Tolerance:
    """Allowed differences between a runtime and eager float32 on the test image.

    Masked attention is a threshold at 0: a pixel that rounding moves across it changes its query visibly. Errors are
    therefore means over the image and medians over the queries.

    Attributes:
        mask: Mean absolute difference of mask logits, in units of their standard deviation.
        sign: Fraction of mask pixels that are inside in one output and outside in the other.
        embedding: Relative length of the difference of two embeddings, median over the queries.
    """

    mask: float
    sign: float
    embedding: float


TOLERANCES = {
    "fp32": Tolerance(mask=0.005, sign=0.002, embedding=0.005),
    "fp16": Tolerance(mask=0.03, sign=0.01, embedding=0.03),
    "bf16": Tolerance(mask=0.10, sign=0.03, embedding=0.25),
}


@dataclass(frozen=True)
class Reference:
    """Eager PyTorch's output for the test image.

    Attributes:
        mask_logits: `(B, Q, h, w)`, every `_MASK_STEP`-th row and column.
        in_vocab_embedding: `(B, Q, D)`.
        out_vocab_embedding: `(B, Q, D)`.
    """

    mask_logits: Tensor
    in_vocab_embedding: Tensor
    out_vocab_embedding: Tensor

    @classmethod
    def of(cls, output: ModelOutput) -> Reference:
        """The part of `output` that is compared, on the CPU."""
        return cls(
            output.mask_logits[:, :, ::_MASK_STEP, ::_MASK_STEP].float().cpu().contiguous(),
            output.in_vocab_embedding.float().cpu(),
            output.out_vocab_embedding.float().cpu(),
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> Reference:
        """Reads what `to_bytes` wrote.

        Raises:
            BackendError: The content is invalid.
        """
        try:
            return cls(**load(content))
        except (SafetensorError, TypeError) as error:
            raise BackendError(f"not a reference output for the test image: {error}") from error

    def to_bytes(self) -> bytes:
        """As safetensors."""
        return save(dict(vars(self)))


def check_picture(spec: InputSpec) -> Tensor:
    """Test images with smooth areas, edges and fine detail, a different one for each position in the batch.

    Returns:
        float32 `(B, 3, h, w)`, in the range of normalized images.
    """
    y = torch.linspace(0, 1, spec.height)[:, None]
    x = torch.linspace(0, 1, spec.width)[None]
    pictures = []
    for index in range(spec.batch):
        waves = [torch.sin(9 * x * (c + 1) + 7 * y + index) * torch.cos(5 * y * (3 - c) - 4 * x) for c in range(3)]
        disc = ((x - 0.3 - 0.1 * index) ** 2 + (y - 0.6) ** 2 < 0.04).float()
        stripes = (torch.sin(160 * (x + 0.5 * y)) > 0).float() * (x > 0.6).float() * (y < 0.5).float()
        pictures.append(torch.stack(waves) + 1.2 * disc - 0.8 * stripes)
    return torch.stack(pictures)


@dataclass(frozen=True)
class Differences:
    """Differences of two outputs; fields as in `Tolerance`."""

    mask: float
    sign: float
    embedding: float

    @classmethod
    def between(cls, reference: Reference, output: ModelOutput) -> Differences:
        """Compares `output` with `reference`; NaN in either gives NaN."""
        found = Reference.of(output)
        expected, masks = reference.mask_logits, found.mask_logits
        embeddings = (
            _relative(reference.in_vocab_embedding, found.in_vocab_embedding),
            _relative(reference.out_vocab_embedding, found.out_vocab_embedding),
        )
        return cls(
            mask=float((expected - masks).abs().mean() / expected.std()),
            sign=float(((expected > 0) != (masks > 0)).float().mean()),
            embedding=float(torch.stack(embeddings).amax()),  # Python's max would lose NaN
        )

    def __str__(self) -> str:
        """For logs."""
        return f"mask {self.mask:.2g}, sign {self.sign:.2g}, embedding {self.embedding:.2g}"


def check(name: str, reference: Reference, output: ModelOutput, precision: str) -> Differences:
    """Checks an output for the test image against eager PyTorch's.

    Args:
        name: The runtime's name for the message.
        reference: Eager PyTorch's output.
        output: The output to check.
        precision: Key of `TOLERANCES`.

    Raises:
        BackendError: The shapes differ, there are NaN, or a difference exceeds its tolerance.
    """
    expected = reference.mask_logits.shape[:2]
    if output.mask_logits.shape[:2] != expected:
        raise BackendError(f"{name} gives {tuple(output.mask_logits.shape[:2])} masks, eager PyTorch {tuple(expected)}")
    differences, limits = Differences.between(reference, output), TOLERANCES[precision]
    # Written so that NaN fails.
    if not all(getattr(differences, field) <= limit for field, limit in vars(limits).items()):
        raise BackendError(
            f"output mismatch between {name} and eager PyTorch on the test image: {differences}; allowed in "
            f"{precision}: mask {limits.mask:g}, sign {limits.sign:g}, embedding {limits.embedding:g}"
        )
    return differences


def _relative(expected: Tensor, found: Tensor) -> Tensor:
    lengths = (expected - found).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-6)
    return lengths.median()
