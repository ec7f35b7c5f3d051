"""What the paper reports of CLIPs by themselves, over input sizes (Tables 9 and 10)."""

from __future__ import annotations

from collections.abc import Mapping

from fcclip_core.evaluation.clips import Clip

TABLE_9_SIZES = (224, 448, 672, 896, 1120)
TABLE_10_SIZES = (224, 336, 448, 560, 672, 784, 896)

CONVNEXT, VIT = "convnext_large", "ViT-L-14"

TABLE_9: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "coco": {VIT: (19.3, 22.5, 20.6, 18.5, 14.9), CONVNEXT: (17.3, 23.5, 27.0, 28.6, 29.3)},
    "ade20k": {VIT: (11.9, 13.7, 12.6, 11.6, 9.1), CONVNEXT: (9.3, 12.8, 14.8, 16.0, 15.9)},
}
"""Dataset -> CLIP -> PQ in per cent at each of `TABLE_9_SIZES`, with ODISE's masks."""
TABLE_10: Mapping[str, tuple[float, ...]] = {
    VIT: (75.3, 74.3, 71.3, 67.5, 63.1, 58.5, 53.9),
    CONVNEXT: (75.1, 77.1, 76.8, 74.2, 69.8, 65.6, 58.4),
}
"""CLIP -> top-1 accuracy on ImageNet-1k in per cent at each of `TABLE_10_SIZES`."""


def table_9(clip: Clip, dataset: str) -> dict[int, float]:
    """Input size -> PQ; empty for what the paper does not report, and for seeded weights."""
    return _of(clip, TABLE_9.get(dataset, {}), TABLE_9_SIZES)


def table_10(clip: Clip) -> dict[int, float]:
    """Input size -> top-1 accuracy, likewise."""
    return _of(clip, TABLE_10, TABLE_10_SIZES)


def _of(clip: Clip, table: Mapping[str, tuple[float, ...]], sizes: tuple[int, ...]) -> dict[int, float]:
    return dict(zip(sizes, () if clip.seeded else table.get(clip.name, ()), strict=False))
