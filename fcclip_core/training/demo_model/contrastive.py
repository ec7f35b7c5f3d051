"""CLIP's contrastive loss for batches with repeated captions, and the captions.

With a hundred classes, many images of a batch share a caption. The loss is CLIP's (Radford et al., 2021) with every
matching pair as a positive (as in UniCL, Yang et al., 2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fcclip_core.inference.classification import MAX_LOGIT_SCALE
from fcclip_core.vocabulary.text_embeddings import TEMPLATES

PARAPHRASES = ("{}", "a {}", "the {}", "a picture of a {}", "a close view of the {}", "part of a room with a {}")
"""Caption templates in addition to the published ones."""


def contrastive_loss(images: Tensor, captions: Tensor, scale: Tensor, matches: Tensor, ignored: Tensor) -> Tensor:
    """Cross-entropy of images over captions and of captions over images, averaged.

    Args:
        images: `(M, D)`, not normalized.
        captions: `(K, D)`, not normalized.
        scale: Scalar, logarithm of the logit scale, which is clipped at 100.
        matches: bool `(M, K)`, positive pairs. Every row has at least one; a caption without an image is a negative for
            all images.
        ignored: bool `(M, K)`, neither positive nor negative; excluded from the softmax.

    Returns:
        Scalar.
    """
    cosines = F.normalize(images.float(), dim=-1) @ F.normalize(captions.float(), dim=-1).T
    logits = (cosines * scale.exp().clamp(max=MAX_LOGIT_SCALE)).masked_fill(ignored, -torch.inf)
    used = matches.any(0)
    return (_cross_entropy(logits, matches) + _cross_entropy(logits.T[used], matches.T[used])) / 2


def pairings(
    named: Sequence[frozenset[int]], others: Sequence[int] = ()
) -> tuple[list[frozenset[int]], Tensor, Tensor]:
    """The captions of a batch and their pairing with images.

    A caption whose classes are a proper subset or superset of an image's classes is neither positive nor negative.

    Args:
        named: The class indices of each of M images.
        others: Classes whose captions are added even if no image contains them.

    Returns:
        K distinct sets of classes, one per caption; bool matches `(M, K)`; bool ignored `(M, K)`.
    """
    distinct = list(dict.fromkeys([*named, *(frozenset((index,)) for index in others)]))
    matches = torch.tensor([[image == caption for caption in distinct] for image in named])
    ignored = torch.tensor([[image < caption or caption < image for caption in distinct] for image in named])
    return distinct, matches, ignored


def write_caption(names: Sequence[str], generator: np.random.Generator) -> str:
    """A sentence with all of `names` in random order, from a random template."""
    order = [names[index] for index in generator.permutation(len(names))]
    listed = " and ".join((", ".join(order[:-1]), order[-1])) if len(order) > 1 else order[0]
    sentences = TEMPLATES + PARAPHRASES
    return sentences[int(generator.integers(len(sentences)))].format(listed)


def _cross_entropy(logits: Tensor, matches: Tensor) -> Tensor:
    """Mean over rows; the target of a row is uniform over its matches."""
    targets = matches / matches.sum(-1, keepdim=True)
    # Ignored pairs have a log-probability of minus infinity and no target.
    return -(targets * logits.log_softmax(-1).masked_fill(~matches, 0.0)).sum(-1).mean()
