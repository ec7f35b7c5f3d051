"""What trust in CLIP (`clip_trust`) and in examples does to the probabilities, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fcclip_core import InferenceSettings
from fcclip_core.inference.classification import TextClassifier, classify
from fcclip_core.model.fcclip import ModelOutput

SETTINGS = InferenceSettings(valid_mask_only=False)


def probabilities(
    settings: InferenceSettings, survives: bool = True, taught: tuple[float, float] = (0.0, 0.0)
) -> list[float]:
    """One mask, two unseen classes along the axes, void between them; both classifiers see the first class."""
    axes, half = torch.eye(2), math.sqrt(0.5)
    seen_by_both = axes[None, :1]
    output = ModelOutput(torch.zeros(1, 1, 8, 8), seen_by_both, seen_by_both, torch.tensor([[survives]]))
    void = torch.tensor([[half, half]])
    # In-vocabulary logits 1, 0 and void 0.7071; CLIP's ln 3 and 0, so that its probabilities are 3/4 and 1/4.
    classifier = TextClassifier(axes, void, torch.arange(2), torch.zeros(2, dtype=torch.bool), 1.0, math.log(3.0))
    classifier = classifier.with_examples(axes, torch.tensor(taught)) if any(taught) else classifier
    return classify(output, classifier, settings).ensemble[0, 0].tolist()


VOID = math.exp(math.sqrt(0.5)) / (math.e + 1 + math.exp(math.sqrt(0.5)))


@pytest.mark.parametrize("trust", [0.0, 0.5, 1.0])
def test_no_object_becomes_less_likely_by_the_trust_times_clips_best_probability(trust: float) -> None:
    *classes, void = probabilities(replace(SETTINGS, clip_trust=trust))
    assert void == pytest.approx(VOID * (1 - trust * 0.75), abs=1e-6)
    # The classes share what is left as before.
    plain = probabilities(SETTINGS)
    assert sum(classes) == pytest.approx(1 - void, abs=1e-6)
    assert classes[0] / classes[1] == pytest.approx(plain[0] / plain[1], rel=1e-4)


def test_what_clip_says_of_a_mask_that_vanished_is_not_trusted() -> None:
    trusting = replace(SETTINGS, clip_trust=0.5, valid_mask_only=True)
    assert probabilities(trusting, survives=False)[-1] == pytest.approx(VOID, abs=1e-6)
    assert probabilities(trusting, survives=True)[-1] == pytest.approx(VOID * 0.625, abs=1e-6)


def test_a_taught_class_is_named_by_clip_alone_and_its_void_halves_where_it_is_likely() -> None:
    """Equation 7 with weight 1 for the first class, which has examples alone, and 0.8 for the second one."""
    *classes, void = probabilities(SETTINGS, taught=(1.0, 0.0))
    assert void == pytest.approx(VOID * (1 - 0.5 * 0.75), abs=1e-6)
    in_second = 1 / (math.e + 1)
    assert classes[0] / classes[1] == pytest.approx(0.75 / (0.25**0.8 * in_second**0.2), rel=1e-4)


def test_half_taught_is_half_way() -> None:
    """As many examples as weigh as much as the word: weight 0.9, and a quarter of trust."""
    *classes, void = probabilities(SETTINGS, taught=(0.5, 0.0))
    assert void == pytest.approx(VOID * (1 - 0.25 * 0.75), abs=1e-6)
    in_first, in_second = math.e / (math.e + 1), 1 / (math.e + 1)
    expected = 0.75**0.9 * in_first**0.1 / (0.25**0.8 * in_second**0.2)
    assert classes[0] / classes[1] == pytest.approx(expected, rel=1e-4)
