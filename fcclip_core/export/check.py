"""Is it the same network? What a runtime makes of a graph is held against eager PyTorch before its answers are used.

Runtimes have given wrong answers without a word (NVIDIA/TensorRT issue 4813), so every one that is loaded sees one test
picture first. Eager's answer to it is kept beside the graph: the check costs one run, not two.
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
    """How far a runtime may be from eager float32 on the test picture.

    Masked attention is a hard test at 0: a pixel that rounding puts on the other side changes its query visibly. So
    errors are means over the picture and medians over the queries.

    Attributes:
        mask: Mean difference of mask logits, in units of their standard deviation.
        sign: Share of mask pixels that are inside for one and outside for the other.
        embedding: Length of the difference of two embeddings over the embedding's length, median of the queries.
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
    """What eager PyTorch answers to the test picture.

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
            BackendError: It was written by something else.
        """
        try:
            return cls(**load(content))
        except (SafetensorError, TypeError) as error:
            raise BackendError(f"not a record of answers to the test picture: {error}") from error

    def to_bytes(self) -> bytes:
        """As safetensors."""
        return save(dict(vars(self)))


def check_picture(spec: InputSpec) -> Tensor:
    """A picture with smooth areas, edges and fine detail, another one for each of the batch.

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
    """How far two answers are apart; the fields are those of `Tolerance`."""

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
    """Refuses an answer to the test picture that is too far from eager's.

    Args:
        name: Who answered, for the message.
        reference: Eager's answer.
        output: The answer to check.
        precision: Key of `TOLERANCES`.

    Raises:
        BackendError: The shapes differ, there are NaN, or a difference is above its tolerance.
    """
    expected = reference.mask_logits.shape[:2]
    if output.mask_logits.shape[:2] != expected:
        raise BackendError(f"{name} gives {tuple(output.mask_logits.shape[:2])} masks, eager PyTorch {tuple(expected)}")
    differences, limits = Differences.between(reference, output), TOLERANCES[precision]
    # Written so that NaN fails.
    if not all(getattr(differences, field) <= limit for field, limit in vars(limits).items()):
        raise BackendError(
            f"{name} does not give eager PyTorch's answer to the test picture: {differences}; allowed in {precision} "
            f"are mask {limits.mask:g}, sign {limits.sign:g}, embedding {limits.embedding:g}"
        )
    return differences


def _relative(expected: Tensor, found: Tensor) -> Tensor:
    lengths = (expected - found).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-6)
    return lengths.median()
