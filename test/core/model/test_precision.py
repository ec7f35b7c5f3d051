"""A network in short numbers: what stays float32, and that the original is left alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fcclip_core.model.backbone import build_backbone, mask_pool
from fcclip_core.model.config import RN50
from fcclip_core.model.deformable_attention import DeformableAttention
from fcclip_core.model.precision import exact_products, in_precision, movable_copy


def test_original_keeps_its_weights_and_types() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lowered = in_precision(model, torch.float16)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert lowered[0].weight.dtype == torch.float16
    assert lowered[1].weight.dtype == torch.float32


def test_float32_copy_shares_memory() -> None:
    model = nn.Linear(4, 4)
    assert in_precision(model, torch.float32).weight.data_ptr() == model.weight.data_ptr()


def test_normalization_is_computed_in_float32() -> None:
    """Squares of these numbers do not fit into float16."""
    norm = in_precision(nn.LayerNorm(2), torch.float16)
    normalized = norm(torch.tensor([[-3000.0, 3000.0]], dtype=torch.float16))
    assert normalized.dtype == torch.float16
    assert normalized.tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mask_pooling_counts_more_pixels_than_short_numbers_can(dtype: torch.dtype) -> None:
    features = torch.full((1, 1, 300, 300), 1.5, dtype=dtype)
    assert mask_pool(features, torch.ones(1, 1, 300, 300, dtype=torch.bool)).item() == 1.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_coordinates_are_at_least_float32(dtype: torch.dtype) -> None:
    seen = {}

    def note(value: torch.Tensor, shapes: object, locations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        seen.update(value=value.dtype, locations=locations.dtype, weights=weights.dtype)
        return value.flatten(2)

    attention = DeformableAttention(8, heads=2, levels=1, points=2).to(dtype)
    attention.sampler = note
    attention(torch.zeros(1, 4, 8, dtype=dtype), torch.zeros(1, 4, 8, dtype=dtype), torch.zeros(4, 2), [(2, 2)])
    wide = torch.promote_types(dtype, torch.float32)
    assert seen == {"value": dtype, "locations": wide, "weights": wide}


def test_folded_batch_norms_give_the_same_pyramid() -> None:
    torch.manual_seed(0)
    tower = build_backbone(RN50).eval()
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    image = torch.randn(1, 3, 64, 64)
    folded = in_precision(tower, torch.float32)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        expected, found = tower(image).res5, folded(image).res5
    torch.testing.assert_close(found, expected, atol=1e-3 * float(expected.abs().max()), rtol=1e-3)


def test_a_copy_is_moved_and_the_original_stays() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    copied = movable_copy(model)
    assert copied[0].weight.data_ptr() == model[0].weight.data_ptr()
    copied.to("meta")
    assert {tensor.device.type for tensor in copied.state_dict().values()} == {"meta"}
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}


def test_products_are_exact_inside_the_block_and_as_they_were_after_it() -> None:
    assert torch.backends.cudnn.allow_tf32, "torch's default: convolutions in TF32"
    with pytest.raises(ValueError, match="inside"), exact_products():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
        raise ValueError("inside")
    assert torch.backends.cudnn.allow_tf32


def test_products_are_exact_for_somebody_who_uses_the_newer_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    class Newer(SimpleNamespace):
        @property
        def allow_tf32(self) -> bool:
            raise RuntimeError("a mix of the legacy and new APIs")

    conv, rnn = SimpleNamespace(fp32_precision="tf32"), SimpleNamespace(fp32_precision="none")
    matmul = Newer(fp32_precision="tf32")
    cudnn = Newer(conv=conv, rnn=rnn)
    monkeypatch.setattr(torch, "backends", SimpleNamespace(cuda=SimpleNamespace(matmul=matmul), cudnn=cudnn))
    with exact_products():
        assert [place.fp32_precision for place in (matmul, conv, rnn)] == ["ieee"] * 3
    assert [place.fp32_precision for place in (matmul, conv, rnn)] == ["tf32", "tf32", "none"]
