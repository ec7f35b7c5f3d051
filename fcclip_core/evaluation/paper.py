"""The published results for a dataset, under the names of our metrics."""

from __future__ import annotations

from fcclip_core.weights.checkpoints import Provenance
from fcclip_core.weights.model_zoo import PUBLISHED_MODELS, PublishedModel, Scores, published_from


def published_model(preset: str, provenance: Provenance) -> PublishedModel:
    """The published model that weights of a preset are; the paper's main model for unpublished presets."""
    return published_from((source.origin for source in provenance.sources), preset) or PUBLISHED_MODELS[0]


def paper_scores(model: PublishedModel, dataset: str) -> dict[str, float]:
    """Metric -> published result in per cent.

    Args:
        model: A published model.
        dataset: Name of the dataset's scores in `PublishedModel`; "" if the paper has none.
    """
    scores: Scores | None = getattr(model, dataset) if dataset else None
    if scores is None:
        return {}
    named = {"pq.all": scores.pq, "ap.all": scores.ap, "miou.all": scores.miou}
    return {name: value for name, value in named.items() if value is not None}
