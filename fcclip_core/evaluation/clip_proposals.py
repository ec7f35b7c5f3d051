"""CLIPs as classifiers of one mask generator's masks, over input sizes (the paper's Table 9).

The paper takes ODISE's masks; here they are those of the FC-CLIP that is evaluated. As there, no ensemble is formed:
CLIP alone names the masks. Which masks are no object at all is the mask generator's to say, so that the same masks
remain for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fcclip_core.datasets.records import Dataset, PanopticSample
from fcclip_core.distributed import gathered, rank, world_size
from fcclip_core.errors import DatasetError
from fcclip_core.evaluation.clip_masks import settings_for
from fcclip_core.evaluation.clips import Clip
from fcclip_core.evaluation.runner import require_no_distractors
from fcclip_core.evaluation.scoreboard import Scoreboard
from fcclip_core.inference.preprocess import FrameGeometry, preprocess
from fcclip_core.model.vanished_masks import POOLED_CELLS
from fcclip_core.segmenter import EncodedImage, Segmenter
from fcclip_core.vocabulary.snapshot import VocabularySnapshot

Boards = dict[str, dict[int, Scoreboard]]
"""Name of a CLIP -> input size -> its scores."""


def name_proposals(
    dataset: Dataset,
    segmenter: Segmenter,
    snapshots: Mapping[str, VocabularySnapshot],
    clips: Sequence[Clip],
    sizes: Sequence[int],
    *,
    limit: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Boards | None:
    """Segments each image once; then each CLIP names the masks at each input size.

    Args:
        dataset: Images with panoptic ground truth.
        segmenter: Its mask generator makes the masks, at its own input size.
        snapshots: Name of each CLIP -> the vocabulary with its text rows, in the dataset's order.
        clips: The CLIPs.
        sizes: Lengths of the shorter image side that the CLIPs see, in pixels.
        limit: Evaluate only the first images; None: all.
        advance: Called after each image of this process.

    Returns:
        The scores over all processes in the first one; None in the others.

    Raises:
        DatasetError: The dataset has no panoptic ground truth, or a sample cannot be read.
        VocabularyError: A class is a distractor, although every class of a dataset is evaluated.
    """
    settings = replace(segmenter.settings, ensemble="out_of_vocabulary", valid_mask_only=False)
    boards: Boards = {clip.name: {} for clip in clips}
    for clip in clips:
        words = snapshots[clip.name]
        require_no_distractors(words)
        for size in sizes:
            boards[clip.name][size] = Scoreboard(words.class_ids, words.vocabulary.things, words.seen)
    for number in range(rank(), len(dataset) if limit is None else min(limit, len(dataset)), world_size()):
        sample = dataset[number]
        if not isinstance(sample, PanopticSample):
            raise DatasetError(f"{dataset.name} has no segments; classifying masks by CLIP needs a panoptic dataset")
        encoded = segmenter.encode(sample.image)
        for clip in clips:
            for size, board in boards[clip.name].items():
                named = renamed(encoded, sample, clip, size, segmenter.vanished_masks)
                board.update(number, sample, segmenter.decode(named, snapshots[clip.name], settings))
        advance()
    parts = gathered(boards)
    if parts is None:
        return None
    for other in parts[1:]:
        for name, of_size in other.items():
            for size, board in of_size.items():
                parts[0][name][size].merge(board)
    return parts[0]


@torch.inference_mode()
def renamed(encoded: EncodedImage, sample: PanopticSample, clip: Clip, size: int, vanished_masks: str) -> EncodedImage:
    """The network's answer with the masks' embeddings by another CLIP, or at another input size.

    Args:
        encoded: The answer.
        sample: Its image.
        clip: The CLIP.
        size: Length of the shorter image side that it sees, in pixels.
        vanished_masks: How masks that vanish on its grid are pooled, one of `VANISHED_MASKS`.
    """
    output = encoded.output
    pixels, geometry = preprocess(sample.image, settings_for(size), clip.device)
    features = clip.tower(pixels).res5
    logits = logits_on_grid(
        output.mask_logits.to(clip.device), encoded.geometry, geometry, clip.tower.stride, features.shape[-2:]
    )
    embeddings = clip.tower.embed_masks(features, POOLED_CELLS[vanished_masks](logits))
    survives = logits.flatten(2).amax(-1) > 0
    changed = replace(
        output,
        out_vocab_embedding=embeddings.to(output.mask_logits.device),
        mask_survives=survives.to(output.mask_logits.device),
    )
    return replace(encoded, output=changed)


def logits_on_grid(
    logits: Tensor, made_at: FrameGeometry, seen_at: FrameGeometry, stride: int, grid: tuple[int, ...]
) -> Tensor:
    """Mask logits at the centers of the cells of an image tower that saw the image at another size.

    At the same size and stride 32, these are the values that FC-CLIP's own interpolation gives.

    Args:
        logits: `(B, Q, h, w)`, over the padded image that the mask generator saw.
        made_at: Its sizes.
        seen_at: The sizes of the image that the tower saw.
        stride: Its pixels per cell.
        grid: Its cells, (height, width).

    Returns:
        `(B, Q, *grid)`; beyond the masks' edge, the values at the edge.
    """
    axes = []
    for cells, resized, padded, was_resized in zip(grid, seen_at.resized, made_at.padded, made_at.resized, strict=True):
        centers = (torch.arange(cells, device=logits.device, dtype=torch.float32) + 0.5) * stride
        # Pixels of the tower's image -> of the mask generator's -> -1 to 1 over its padded image.
        axes.append(centers * (was_resized / resized) / padded * 2 - 1)
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    places = torch.stack((columns, rows), -1).expand(len(logits), -1, -1, -1)
    return F.grid_sample(logits.float(), places, mode="bilinear", padding_mode="border", align_corners=False)
