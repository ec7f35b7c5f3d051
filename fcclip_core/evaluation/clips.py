"""A CLIP by itself, whatever its image tower: what the comparisons of CLIPs need of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fcclip_core.evaluation.patch_clips import PatchClip
from fcclip_core.inference.classification import MAX_LOGIT_SCALE
from fcclip_core.model.backbone import ImageTower
from fcclip_core.vocabulary.snapshot import VocabularySnapshot
from fcclip_core.vocabulary.text_embeddings import TEMPLATES, Progress, TextEncoder, TextRows
from fcclip_core.weights.checkpoints import Checkpoint, load_model


@dataclass(frozen=True)
class Clip:
    """Both towers of a CLIP, on a device.

    Attributes:
        name: For tables, such as "convnext_large" or "ViT-L-14".
        tower: The image tower.
        embed_images: Normalized images `(B, 3, H, W)` -> `(B, D)`, whole images, not normalized.
        encoder: The text tower.
        logit_scale: Factor of cosines.
        seeded: True for seeded weights, whose names are meaningless.
        device: Where both compute.
    """

    name: str
    tower: ImageTower
    embed_images: Callable[[Tensor], Tensor]
    encoder: TextEncoder
    logit_scale: float
    seeded: bool
    device: torch.device

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint, device: torch.device) -> Clip:
        """The frozen CLIP of an FC-CLIP checkpoint."""
        model = load_model(checkpoint).to(device)
        tower = model.backbone

        def embed_images(image: Tensor) -> Tensor:
            features = tower(image).res5
            # CLIP's own head over the whole map is its head over a mask without a hole.
            whole = torch.ones_like(features[:, :1], dtype=torch.bool)
            return tower.embed_masks(features, whole)[:, 0]

        encoder = TextEncoder(checkpoint.text_tower, device)
        scale = _bounded(model.clip_logit_scale.item())
        return cls(checkpoint.config.name, tower, embed_images, encoder, scale, checkpoint.provenance.seeded, device)

    @classmethod
    def of_patches(cls, clip: PatchClip, device: torch.device) -> Clip:
        """A CLIP with a ViT."""
        tower = clip.image.to(device)
        encoder = TextEncoder(lambda: clip.text, device)
        scale = _bounded(clip.logit_scale)
        return cls(clip.config.name, tower, tower.embed_images, encoder, scale, clip.seeded, device)

    def rows(
        self, names: Sequence[str], templates: Sequence[str] = TEMPLATES, progress: Progress | None = None
    ) -> Tensor:
        """Unit text rows of names, float32 `(N, D)`, on the device; `TextRows.rows` documents the arguments."""
        return TextRows(self.encoder, self.name, templates=templates).rows(names, progress).to(self.device)

    def words_for(self, snapshot: VocabularySnapshot) -> VocabularySnapshot:
        """A vocabulary of another CLIP for the embeddings of this one.

        The in-vocabulary classifier and void stay those of the other one.
        """
        words = snapshot.classifier
        own = replace(
            words,
            rows=self.rows(snapshot.vocabulary.synonyms),
            out_vocab_scale=self.logit_scale,
            in_vocab_rows=words.rows if words.in_vocab_rows is None else words.in_vocab_rows,
        )
        return replace(snapshot, words=replace(snapshot.words, classifier=own))


def _bounded(logarithm: float) -> float:
    return min(torch.tensor(logarithm).exp().item(), MAX_LOGIT_SCALE)
