"""Mask pooling, cosine classification with the synonym maximum, and the two-way ensemble (equation 7)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def mask_pooling(features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean of `features` (B, C, H, W) over each positive region of `masks` (B, Q, H, W) logits: (B, Q, C)."""
    inside = (masks > 0).to(masks.dtype)
    area = inside.sum(dim=(-1, -2), keepdim=True) + 1e-8
    return torch.einsum("bchw,bqhw->bqc", features, inside / area)


def class_logits(
    embedding: torch.Tensor, rows: torch.Tensor, logit_scale: torch.Tensor, synonym_counts: tuple[int, ...]
) -> torch.Tensor:
    """Scaled cosines of (B, Q, D) with the text rows, the largest of each class's synonyms; void last: (B, Q, C+1)."""
    scale = torch.clamp(logit_scale.exp(), max=100)
    cosines = scale * F.normalize(embedding, dim=-1) @ rows.T
    columns, start = [], 0
    for count in synonym_counts:
        columns.append(cosines[:, :, start : start + count].max(-1).values)
        start += count
    columns.append(cosines[:, :, -1])
    return torch.stack(columns, dim=-1)


def ensemble(
    in_logits: torch.Tensor,
    out_logits: torch.Tensor,
    seen: torch.Tensor,
    alpha: float,
    beta: float,
    valid: torch.Tensor | None,
) -> dict[str, torch.Tensor]:
    """Equation 7 in the published order: powers, logarithm, seen and unseen halves added, softmax, void put aside.

    Args:
        in_logits: (B, Q, C+1), in-vocabulary, void last.
        out_logits: (B, Q, C+1), out-of-vocabulary, void last (not used).
        seen: (C,), 1 for classes of the training vocabulary.
        alpha: Out-of-vocabulary share of seen classes.
        beta: Out-of-vocabulary share of unseen classes.
        valid: (B, Q), 1 where the out-of-vocabulary classifier may vote; None: everywhere.

    Returns:
        `in_probs`, `out_probs`, `ensemble_probs` (B, Q, C), `void_prob` (B, Q, 1) and `scores` (B, Q, C+1), which are
        logarithms.
    """
    in_probs = in_logits[..., :-1].softmax(-1)
    out_probs = out_logits[..., :-1].softmax(-1)
    share_seen, share_unseen = torch.tensor(alpha), torch.tensor(beta)
    if valid is not None:
        share_seen, share_unseen = alpha * valid[..., None], beta * valid[..., None]
    mixed_seen = (in_probs ** (1 - share_seen) * out_probs**share_seen).log()
    mixed_unseen = (in_probs ** (1 - share_unseen) * out_probs**share_unseen).log()
    mixed = (mixed_seen * seen + mixed_unseen * (1 - seen)).softmax(-1)
    void = in_logits.softmax(-1)[..., -1:]
    scores = torch.log(torch.cat([mixed * (1.0 - void), void], dim=-1) + 1e-8)
    return {
        "in_probs": in_probs,
        "out_probs": out_probs,
        "ensemble_probs": mixed,
        "void_prob": void,
        "scores": scores,
    }
