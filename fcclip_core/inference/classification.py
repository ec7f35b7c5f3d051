"""Mask classification: mask embeddings against text embeddings (section 3.2 and equation 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fcclip_core.model.fcclip import FCCLIP, ModelOutput
from fcclip_core.settings import InferenceSettings

# CLIP clips its learned logit scale at 100.
MAX_LOGIT_SCALE = 100.0

TAUGHT_TRUST = 0.5
"""As `InferenceSettings.clip_trust`, for what was taught; OVRCOAT's value, and the best of 0, 0.5 and 1 here, too."""

_ABSENT = -1e30
"""Logit of a class without rows; finite, so that a product with weight 0 is not NaN."""


@dataclass(frozen=True)
class TextClassifier:
    """Text embeddings as the weights of a cosine classifier.

    Attributes:
        rows: float32 `(T, D)` unit text embeddings, one per synonym, grouped by class.
        void: float32 `(1, D)` unit embedding of "no object".
        class_of_row: int64 `(T,)`, the class of each row, 0..C-1.
        seen: bool `(C,)`, classes of the training vocabulary.
        in_vocab_scale: Learned logit scale of the in-vocabulary classifier; a tensor during training.
        out_vocab_scale: CLIP's own logit scale.
        margin: float32 `(C,)` or one value for all classes, subtracted from the logits; 0 is the published classifier.
        taught: float32 `(C,)` or one value for all classes, how much of each class's rows comes from examples, 0..1.
            The in-vocabulary classifier was not trained with these rows, so it counts that much less.
        in_vocab_rows: float32 `(T, D)`, the rows of the in-vocabulary classifier; None: `rows`.
    """

    rows: Tensor
    void: Tensor
    class_of_row: Tensor
    seen: Tensor
    in_vocab_scale: float | Tensor
    out_vocab_scale: float | Tensor
    margin: float | Tensor = 0.0
    taught: float | Tensor = 0.0
    in_vocab_rows: Tensor | None = None

    @classmethod
    def build(
        cls,
        model: FCCLIP,
        rows: Tensor,
        synonym_counts: Sequence[int],
        seen: Tensor,
        device: torch.device | None = None,
        margin: float | Tensor = 0.0,
    ) -> TextClassifier:
        """Combines unit text `rows` `(T, D)` with the model's void embedding and logit scales.

        Args:
            model: The network whose embeddings are classified.
            rows: Unit text embeddings, one per synonym, grouped by class.
            synonym_counts: Rows of each class; sums to T.
            seen: bool `(C,)`.
            device: Device of the embeddings to classify; None: the model's.
            margin: Subtracted from the logits, one value for all classes or `(C,)`.
        """
        device = device or model.void_embedding.weight.device
        counts = torch.tensor(synonym_counts)
        return cls(
            rows=rows.to(device, torch.float32),
            void=F.normalize(model.void_embedding.weight.detach().to(device, torch.float32), dim=-1),
            class_of_row=torch.arange(len(counts)).repeat_interleave(counts).to(device),
            seen=seen.to(device),
            in_vocab_scale=min(model.mask_decoder.logit_scale.exp().item(), MAX_LOGIT_SCALE),
            out_vocab_scale=min(model.clip_logit_scale.exp().item(), MAX_LOGIT_SCALE),
            margin=margin.to(device, torch.float32) if isinstance(margin, Tensor) else margin,
        )

    def only(self, classes: Sequence[int]) -> TextClassifier:
        """This classifier restricted to some of its classes, given as indices in ascending order."""
        kept = torch.tensor(list(classes), device=self.class_of_row.device)
        rows = torch.isin(self.class_of_row, kept)
        return replace(
            self,
            rows=self.rows[rows],
            class_of_row=torch.searchsorted(kept, self.class_of_row[rows]),
            seen=self.seen[kept],
            margin=self._with_zeros(self.margin, 0)[kept],
            taught=self._with_zeros(self.taught, 0)[kept],
            in_vocab_rows=None if self.in_vocab_rows is None else self.in_vocab_rows[rows],
        )

    def with_examples(self, rows: Tensor, taught: Tensor) -> TextClassifier:
        """This classifier with rows that were made from examples.

        Args:
            rows: float32 `(T, D)`. The out-of-vocabulary classifier takes them for its own. The in-vocabulary one takes
                only those of classes without words, and else the text rows, with which it was trained.
            taught: float32 `(C,)`, how much of each class's rows comes from examples, 0..1.
        """
        rows, taught = rows.to(self.rows), taught.to(self.rows)
        is_wordless = (taught == 1)[self.class_of_row].unsqueeze(-1)
        return replace(self, rows=rows, taught=taught, in_vocab_rows=torch.where(is_wordless, rows, self.rows))

    def extended(
        self, kept: Sequence[bool], rows: Tensor, synonym_counts: Sequence[int], seen: Tensor
    ) -> TextClassifier:
        """This classifier without some of its rows and with more classes appended.

        Args:
            kept: Which rows to keep, T flags; a class without rows gets no probability.
            rows: Unit text embeddings of the new classes, one per synonym, grouped by class.
            synonym_counts: Rows of each new class.
            seen: bool, one per new class.
        """
        device, stay = self.rows.device, torch.tensor(kept)
        counts = torch.tensor(synonym_counts, dtype=torch.int64)
        further = torch.arange(len(counts)).repeat_interleave(counts) + len(self.seen)
        own = self.in_vocab_rows
        return replace(
            self,
            rows=torch.cat((self.rows[stay.to(device)], rows.to(device, torch.float32))),
            class_of_row=torch.cat((self.class_of_row[stay.to(device)], further.to(device))),
            seen=torch.cat((self.seen, seen.to(device))),
            margin=self._with_zeros(self.margin, len(seen)),
            taught=self._with_zeros(self.taught, len(seen)),
            in_vocab_rows=None if own is None else torch.cat((own[stay.to(device)], rows.to(own))),
        )

    def padded(self, rows: int, classes: int) -> TextClassifier:
        """This classifier padded to `rows` rows and `classes` classes; the added classes get no probability."""
        # Repeating a row does not change the maximum over rows.
        extra = rows - len(self.rows)
        # Always rows of their own: a graph must have the memory for those of a later vocabulary.
        own = self.rows if self.in_vocab_rows is None else self.in_vocab_rows
        return replace(
            self,
            rows=torch.cat((self.rows, self.rows[:1].expand(extra, -1))),
            class_of_row=torch.cat((self.class_of_row, self.class_of_row[:1].expand(extra))),
            seen=torch.cat((self.seen, self.seen.new_zeros(classes - len(self.seen)))),
            margin=self._with_zeros(self.margin, classes - len(self.seen)),
            taught=self._with_zeros(self.taught, classes - len(self.seen)),
            in_vocab_rows=torch.cat((own, own[:1].expand(extra, -1))),
        )

    def in_vocab_logits(self, embeddings: Tensor) -> Tensor:
        """Logits of the in-vocabulary classifier: `(..., D)` -> `(..., C)`."""
        own = self if self.in_vocab_rows is None else replace(self, rows=self.in_vocab_rows)
        return own.logits(embeddings, self.in_vocab_scale)

    def logits(self, embeddings: Tensor, scale: float | Tensor) -> Tensor:
        """Scaled cosine with the best synonym of each class minus its margin: `(..., D)` -> `(..., C)`."""
        cosines = (F.normalize(embeddings.float(), dim=-1) * scale) @ self.rows.T
        best = cosines.new_full((*cosines.shape[:-1], len(self.seen)), _ABSENT)
        return best.scatter_reduce_(-1, self.class_of_row.expand_as(cosines), cosines, "amax") - self.margin

    def _with_zeros(self, values: float | Tensor, further: int) -> Tensor:
        """The value of each class, followed by zeros for `further` classes."""
        own = torch.as_tensor(values, dtype=torch.float32, device=self.seen.device).expand(len(self.seen))
        return torch.cat((own, own.new_zeros(further)))

    def void_logits(self, embeddings: Tensor) -> Tensor:
        """Scaled cosine with the void embedding: `(..., D)` -> `(..., 1)`."""
        return (F.normalize(embeddings.float(), dim=-1) * self.in_vocab_scale) @ self.void.T


@dataclass(frozen=True)
class MaskProbabilities:
    """Class probabilities of each query.

    Attributes:
        ensemble: `(..., Q, C+1)`, equation 7 with void last; rows sum to 1.
        in_vocab: `(..., Q, C)`, softmax without void.
        out_vocab: `(..., Q, C)`, softmax without void.
    """

    ensemble: Tensor
    in_vocab: Tensor
    out_vocab: Tensor


def classify(output: ModelOutput, classifier: TextClassifier, settings: InferenceSettings) -> MaskProbabilities:
    """Scores every mask against the vocabulary with both classifiers and combines them (equation 7).

    The void probability comes from the in-vocabulary classifier alone: CLIP has no notion of "no object". With
    `clip_trust` it falls where CLIP is sure of a class (OVRCOAT's CLIP-conditioned objectness adjustment, COAT).

    Args:
        output: The network's masks and embeddings.
        classifier: The vocabulary.
        settings: alpha, beta, kind of ensemble, clip_trust and the valid-mask rule; `valid_mask_only` must be resolved.
    """
    in_logits = classifier.in_vocab_logits(output.in_vocab_embedding)
    void_logits = classifier.void_logits(output.in_vocab_embedding)
    out_logits = classifier.logits(output.out_vocab_embedding, classifier.out_vocab_scale)

    weight = _out_vocab_weight(classifier, settings)
    # What was shown is an object, though the in-vocabulary classifier may not know it: its void counts less.
    trust = (torch.zeros_like(out_logits) + TAUGHT_TRUST * classifier.taught).clamp(min=settings.clip_trust)
    if settings.valid_mask_only:
        weight = torch.where(output.mask_survives.unsqueeze(-1), weight, 0.0)
        trust = torch.where(output.mask_survives.unsqueeze(-1), trust, 0.0)
    # Log-probabilities cannot underflow to log(0), as the published formula does at logit gaps above 100.
    in_log, out_log = in_logits.log_softmax(-1), out_logits.log_softmax(-1)
    if settings.ensemble == "arithmetic":
        mixed = in_log.exp() * (1 - weight) + out_log.exp() * weight
        mixed = mixed / mixed.sum(-1, keepdim=True)
    else:
        mixed = (in_log * (1 - weight) + out_log * weight).softmax(-1)

    void = torch.cat((in_logits, void_logits), dim=-1).softmax(-1)[..., -1:]
    void = void * (1 - (trust * out_log.exp()).amax(-1, keepdim=True))
    there = torch.cat((in_logits > _ABSENT, torch.ones_like(void, dtype=torch.bool)), dim=-1)
    ensemble = torch.cat((mixed * (1 - void), void), dim=-1) + 1e-8 * there
    return MaskProbabilities(
        ensemble=ensemble / ensemble.sum(-1, keepdim=True), in_vocab=in_log.exp(), out_vocab=out_log.exp()
    )


def _out_vocab_weight(classifier: TextClassifier, settings: InferenceSettings) -> Tensor:
    """Weight of the out-of-vocabulary classifier per class, float32 `(C,)`."""
    seen = classifier.seen
    if settings.ensemble == "in_vocabulary":
        return torch.zeros(len(seen), device=seen.device)
    if settings.ensemble == "out_of_vocabulary":
        return torch.ones(len(seen), device=seen.device)
    weight = torch.where(seen, settings.alpha, settings.beta)
    # Exactly the published weight for classes without examples.
    return weight + (1 - weight) * classifier.taught


@dataclass(frozen=True)
class Words:
    """A vocabulary on the device, ready to classify masks.

    Attributes:
        classifier: Text embeddings and logit scales.
        is_thing: bool `(C,)`.
        minimum_scores: float32 `(C,)`; segments scored below their class's minimum are not published. The minimum of a
            distractor is above every score. None: no minimum.
    """

    classifier: TextClassifier
    is_thing: Tensor
    minimum_scores: Tensor | None = None

    def only(self, classes: Sequence[int]) -> Words:
        """Restricts to some of the classes; see `TextClassifier.only`."""
        kept = torch.tensor(list(classes), device=self.is_thing.device)
        minimum = None if self.minimum_scores is None else self.minimum_scores[kept]
        return Words(self.classifier.only(classes), self.is_thing[kept], minimum)

    def padded(self, rows: int, classes: int) -> Words:
        """Pads to `rows` rows and `classes` classes; see `TextClassifier.padded`."""
        extra = classes - len(self.is_thing)
        minimum = self.minimum_scores
        if minimum is None:
            minimum = self.classifier.rows.new_zeros(len(self.is_thing))
        return Words(
            self.classifier.padded(rows, classes),
            torch.cat((self.is_thing, self.is_thing.new_zeros(extra))),
            torch.cat((minimum, minimum.new_zeros(extra))),
        )
