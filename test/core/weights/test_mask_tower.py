"""Checkpoints with an image tower for the mask generator beside CLIP's: copied, trained, written and run."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import training_case

from fcclip_core.errors import CheckpointError
from fcclip_core.model.config import OWN, TINY
from fcclip_core.model.fcclip import ModelOutput
from fcclip_core.model.stored_config import config_from_dict, layer_counts
from fcclip_core.training.trainer import Trainer
from fcclip_core.weights.checkpoints import Checkpoint, load_checkpoint, load_model, save_checkpoint
from fcclip_core.weights.mask_tower import with_own_tower
from fcclip_core.weights.published_layout import MASK_TOWER_PREFIX, VISUAL_PREFIX

IMAGE = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def output(checkpoint: Checkpoint) -> ModelOutput:
    return load_model(checkpoint)(IMAGE)


def changed_clip(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with another CLIP image tower, as training makes it."""
    state = {key: item * 1.1 if key.startswith(VISUAL_PREFIX) else item for key, item in checkpoint.state.items()}
    return replace(checkpoint, state=state)


def same(a: ModelOutput, b: ModelOutput) -> dict[str, bool]:
    return {name: torch.equal(item, getattr(b, name)) for name, item in vars(a).items()}


def test_a_copy_changes_nothing_until_it_is_trained() -> None:
    start = training_case.start()
    assert all(same(output(with_own_tower(start)), output(start)).values())


@pytest.mark.parametrize("preset", ["tiny", pytest.param("rn50", marks=pytest.mark.slow)])
def test_only_the_out_of_vocabulary_classifier_sees_clip(preset: str) -> None:
    frozen = load_checkpoint(f"recipe:{preset}")
    trained = changed_clip(frozen)
    both, masks, names = output(with_own_tower(trained, frozen)), output(trained), output(frozen)
    assert torch.equal(both.mask_logits, masks.mask_logits)
    assert torch.equal(both.in_vocab_embedding, masks.in_vocab_embedding)
    assert not torch.equal(both.out_vocab_embedding, masks.out_vocab_embedding)
    # The frozen tower's features under the trained masks.
    shared = load_model(with_own_tower(trained, frozen)).backbone
    with torch.no_grad():
        assert torch.equal(shared(IMAGE).res5, load_model(frozen).backbone(IMAGE).res5)
    assert not torch.equal(both.mask_logits, names.mask_logits)


def test_it_is_written_and_read_exactly(tmp_path: Path) -> None:
    start = training_case.start()
    two = with_own_tower(changed_clip(start), start)
    save_checkpoint(tmp_path / "two.safetensors", two)
    again = load_checkpoint(tmp_path / "two.safetensors")
    assert again.config == two.config and again.config.mask_tower == OWN
    assert all(torch.equal(item, again.state[key]) for key, item in two.state.items())
    assert "out-of-vocabulary classifier: random weights" in again.provenance.note
    assert all(same(output(again), output(two)).values())


def test_training_moves_the_copy_and_not_clip(tmp_path: Path) -> None:
    two = with_own_tower(training_case.start())
    rows = torch.nn.functional.normalize(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    trainer = Trainer(replace(training_case.CONFIG, steps=1), two, training_case.Rectangles(), tmp_path, text_rows=rows)
    after = load_checkpoint(trainer.run()).state
    moved = {key for key in two.state if not torch.equal(two.state[key], after[key])}
    copy = {key for key in two.state if key.startswith(MASK_TOWER_PREFIX)}
    assert copy and copy <= moved
    assert not any(key.startswith("backbone.") for key in moved)
    optimizer = torch.load(tmp_path / "resume.pt", weights_only=True)["optimizer"]
    assert {group["lr"] for group in optimizer["param_groups"]} == {1e-3, 1e-4}


def test_the_same_step_as_with_a_shared_tower(tmp_path: Path) -> None:
    """The out-of-vocabulary classifier has no part in the loss: both trainings are the same."""
    rows = torch.nn.functional.normalize(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    start, ends = training_case.start(), []
    for name, begin, train in (("shared", start, True), ("own", with_own_tower(start), False)):
        config = replace(training_case.CONFIG, steps=2, train_backbone=train)
        ends.append(Trainer(config, begin, training_case.Rectangles(), tmp_path / name, text_rows=rows))
        ends[-1].run()
    shared, own = (trainer.checkpoint().state for trainer in ends)
    for key, item in own.items():
        if not key.startswith("backbone."):
            at = VISUAL_PREFIX + key.removeprefix(MASK_TOWER_PREFIX) if key.startswith(MASK_TOWER_PREFIX) else key
            assert torch.allclose(item, shared[at], atol=1e-6), key


def test_what_cannot_be_joined_is_said() -> None:
    start = training_case.start()
    with pytest.raises(CheckpointError, match="an image tower of its own already"):
        with_own_tower(with_own_tower(start))
    with pytest.raises(CheckpointError, match="the image towers differ: tiny and convnext_small"):
        with_own_tower(start, load_checkpoint("recipe:convnext_small"))


def test_a_configuration_from_a_file_is_checked() -> None:
    fields = asdict(TINY)
    with pytest.raises(ValueError, match="mask_tower is 'both'; expected one of shared, own"):
        config_from_dict(_listed({**fields, "mask_tower": "both"}))
    del fields["mask_tower"]
    assert config_from_dict(_listed(fields)) == TINY  # written by version 0.1
    own = replace(TINY, mask_tower=OWN)
    assert layer_counts(own)["vision blocks"] == 2 * layer_counts(TINY)["vision blocks"]


def _listed(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as a checkpoint's JSON gives them back."""
    return json.loads(json.dumps(fields))
