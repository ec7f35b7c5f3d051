"""Words as CLIP's text tower embeds them; without torch, for who only compares them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TextEmbeddings:
    """Names in CLIP's joint space, where the embeddings of segments lie too.

    Attributes:
        rows: float32 `(N, D)`, unit vectors.
        logit_scale: A softmax over names takes this times the cosines, as the out-of-vocabulary classifier does.
        model: Identity of the text tower: rows of different models do not compare.
    """

    rows: np.ndarray
    logit_scale: float
    model: str
