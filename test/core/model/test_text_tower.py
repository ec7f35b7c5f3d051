"""CLIP's text tower: published names, open_clip's own tower as oracle, and the reference's numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from key_lists import LISTS, entries
from open_clip.transformer import QuickGELU, TextTransformer
from torch import nn

from checkout import REFERENCE
from fcclip_core.model.config import PRESETS, RN50, TINY, TextConfig
from fcclip_core.model.text_tower import TextTower
from fcclip_core.vocabulary.text_embeddings import TextEncoder, TextRows, tokenize
from fcclip_core.weights.seeded_weights import seeded_tensor

CLIP = "backbone.clip_model."


def seeded_tower(preset: str) -> TextTower:
    with torch.device("meta"):
        tower = TextTower(PRESETS[preset])
    state = {name: seeded_tensor(CLIP + name, tuple(tensor.shape)) for name, tensor in tower.state_dict().items()}
    tower.load_state_dict(state, assign=True)
    return tower.eval().requires_grad_(False)


def full_length(tokens: torch.Tensor) -> torch.Tensor:
    return nn.functional.pad(tokens, (0, 77 - tokens.shape[1]))


@pytest.mark.parametrize("preset", [name for name in LISTS if PRESETS[name].open_clip_name])
def test_names_and_shapes_are_the_published_ones(preset: str) -> None:
    config = PRESETS[preset]
    with torch.device("meta"):
        own = {CLIP + name: list(tensor.shape) for name, tensor in TextTower(config).state_dict().items()}
    not_text = (CLIP + "visual.", CLIP + "logit_scale")
    assert own == {
        key: entry[0] for key, entry in entries(preset).items() if key.startswith(CLIP) and not key.startswith(not_text)
    }


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_equals_open_clips_tower_at_full_length(quick_gelu: bool) -> None:
    text = TextConfig(width=64, heads=4, layers=3, quick_gelu=quick_gelu)
    oracle = TextTransformer(
        width=64, heads=4, layers=3, output_dim=48, act_layer=QuickGELU if quick_gelu else nn.GELU
    ).eval()
    # Weights of a size at which the two activations differ visibly.
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.mul_(5.0)
    tower = TextTower(replace(TINY, text=text, embed_dim=48)).eval()
    tower.load_state_dict(oracle.state_dict())
    full = full_length(tokenize(["a cup", "a photo of a rather large espresso machine."]))
    with torch.no_grad():
        torch.testing.assert_close(tower(full), oracle(full), rtol=1e-5, atol=1e-5)


def test_openai_towers_use_the_quick_gelu_and_openclip_towers_do_not() -> None:
    with torch.device("meta"):
        assert isinstance(TextTower(RN50).transformer.resblocks[0].mlp.gelu, QuickGELU)
        assert isinstance(TextTower(PRESETS["convnext_large"]).transformer.resblocks[0].mlp.gelu, nn.GELU)


def test_what_follows_the_end_token_does_not_count() -> None:
    tower = seeded_tower("tiny")
    cut = tokenize(["a photo of a cup.", "spoon"])
    padded = full_length(cut)
    # The shorter prompt is followed by rubbish instead of zeros: the mask, not the padding, must keep it out.
    end = int(padded[1].argmax())
    padded[1, end + 1 :] = 320
    torch.testing.assert_close(tower(cut), tower(padded), rtol=1e-5, atol=1e-5)


def test_a_tower_without_memory_is_complete_once_loaded() -> None:
    with torch.device("meta"):
        tower = TextTower(TINY)
    built = TextTower(TINY)
    tower.load_state_dict(built.state_dict(), assign=True)
    assert not [name for name, tensor in (*tower.named_buffers(), *tower.named_parameters()) if tensor.is_meta]
    tokens = tokenize(["a cup"])
    with torch.no_grad():
        torch.testing.assert_close(tower.eval()(tokens), built.eval()(tokens))


def test_tiny_rows_equal_the_reference() -> None:
    names = json.loads((REFERENCE / "text.json").read_text())["names"]
    rows = TextRows(TextEncoder(lambda: seeded_tower("tiny")), "tiny").rows(names)
    np.testing.assert_allclose(rows, np.load(REFERENCE / "tiny_text.npz")["class_rows"], atol=2e-5)


@pytest.mark.slow
def test_published_size_rows_equal_the_reference() -> None:
    texts, golden = json.loads((REFERENCE / "text.json").read_text()), np.load(REFERENCE / "text.npz")
    encode = TextEncoder(lambda: seeded_tower("convnext_large"))
    embeddings = encode(texts["prompts"]).numpy()
    np.testing.assert_allclose(embeddings[:56], golden["prompt_embeddings"], atol=2e-5)
    every_sixteenth = embeddings[56:, ::16]
    np.testing.assert_allclose(every_sixteenth, golden["prompt_embeddings_rest_slice"], atol=2e-5)
    np.testing.assert_allclose(TextRows(encode, "large").rows(texts["names"]), golden["class_rows"], atol=2e-5)
