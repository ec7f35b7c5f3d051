"""The network's forms for a GPU against PyTorch's own: kernels in Triton's interpreter, the rest on the CPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gpu_kernels import (
    DEVICE,
    GPUS,
    INTERPRETED,
    LAUNCHES,
    MOST_SPILLED,
    compile_for,
    needs_triton,
    runs_kernels,
)
from torch import nn

from fcclip_core.kernels import gpu_network, probe
from fcclip_core.kernels.gpu_network import FusedBlock, PatchProjection, for_gpu
from fcclip_core.kernels.library_products import ActivatedLinear, pool_masks
from fcclip_core.model.backbone import mask_pool
from fcclip_core.model.fcclip import FCCLIP, ModelOutput
from fcclip_core.model.precision import in_precision
from fcclip_core.weights.checkpoints import load_checkpoint, load_model

if LAUNCHES:
    from fcclip_core.kernels.attention_triton import attend_in_parts
    from fcclip_core.kernels.depthwise_triton import depthwise_norm, takes_channels


@pytest.fixture(scope="module")
def model() -> FCCLIP:
    return load_model(load_checkpoint("recipe:tiny"))


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def answer(network: FCCLIP, dtype: torch.dtype) -> ModelOutput:
    image = numbers(1, 3, 64, 96, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return network(image)


# --- kernels ------------------------------------------------------------------------------------------------------


@runs_kernels
@pytest.mark.parametrize(("batch", "height", "width", "channels"), [(2, 9, 11, 48), (1, 5, 3, 32), (1, 1, 1, 16)])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_kernel_convolves_and_normalizes(
    batch: int, height: int, width: int, channels: int, dtype: torch.dtype, limit: float
) -> None:
    # Widths that four pixels do not divide, windows that reach over every border.
    x = numbers(batch, height, width, channels, dtype=dtype)
    weight, bias = numbers(channels, 1, 7, 7, seed=1), numbers(channels, seed=2, dtype=dtype)
    scale, shift = numbers(channels, seed=3), numbers(channels, seed=4)
    convolved = F.conv2d(x.float().permute(0, 3, 1, 2), weight, bias.float(), padding=3, groups=channels)
    expected = F.layer_norm(convolved.permute(0, 2, 3, 1), (channels,), scale, shift, 1e-6)
    found = depthwise_norm(x, weight.flatten(1).T.contiguous(), bias, scale, shift, 1e-6)
    assert found.dtype == dtype
    assert relative(found, expected) < limit


@runs_kernels
def test_kernel_names_widths_that_it_does_not_take() -> None:
    assert [takes_channels(width) for width in (192, 96, 128, 1536, 80, 24)] == [True, True, True, True, False, False]
    x, vector = numbers(1, 4, 4, 80), numbers(80)
    with pytest.raises(ValueError, match="got 80 channels; expected 16, 32, 64"):
        depthwise_norm(x, numbers(49, 80), vector, vector, vector, 1e-6)


@runs_kernels
@pytest.mark.parametrize(
    ("batch", "heads", "queries", "keys", "channels"),
    [(1, 2, 70, 300, 32), (2, 1, 5, 17, 16), (1, 1, 66, 1100, 32), (1, 1, 3, 64, 64)],
)
def test_kernel_attends_as_torch(batch: int, heads: int, queries: int, keys: int, channels: int) -> None:
    def heads_of(count: int, seed: int) -> torch.Tensor:
        # As the decoder's projections leave them: every third layer's part of a wider product.
        wide = numbers(batch, count, 3 * heads * channels, seed=seed, dtype=torch.float16)
        return wide.chunk(3, -1)[1].unflatten(-1, (heads, channels)).transpose(1, 2)

    query, key, value = heads_of(queries, 1), heads_of(keys, 2), heads_of(keys, 3)
    allowed = numbers(batch, 1, queries, keys, seed=4) > 1.5
    # Whole parts without a key, and a query that has the last one alone.
    allowed[..., keys // 3 :] = False
    allowed[:, :, 1] = False
    allowed[..., 0] = True
    allowed[:, :, 1] = torch.arange(keys, device=DEVICE) == keys - 1
    expected = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), allowed)
    found = attend_in_parts(query, key, value, allowed)
    assert found.shape == expected.shape
    assert relative(found, expected) < 2e-3


@runs_kernels
def test_kernel_network_answers_as_the_plain_one(model: FCCLIP) -> None:
    # Float16 in Triton's interpreter; bfloat16's products are wrong there.
    model = model.to(DEVICE)
    fast, kernels = for_gpu(model, DEVICE, torch.float16)
    assert kernels == set(probe.PROBES)
    assert sum(isinstance(module, FusedBlock) for module in fast.modules()) == sum(model.config.vision.depths)  # type: ignore[union-attr]
    exact, short = answer(model, torch.float32), answer(in_precision(model, torch.float16), torch.float16)
    found = answer(fast, torch.float16)
    for name in ("mask_logits", "in_vocab_embedding", "out_vocab_embedding"):
        allowed = 2 * relative(getattr(short, name), getattr(exact, name)) + 1e-3
        assert relative(getattr(found, name), getattr(exact, name)) < allowed, name


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="nothing to compile in the interpreter")
@pytest.mark.parametrize("capability", GPUS)
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_compiles_for_a_gpu_that_is_not_here(capability: int, dtype: str) -> None:
    import fcclip_core.kernels.attention_triton as attention
    import fcclip_core.kernels.depthwise_triton as depthwise

    types = dict.fromkeys(("image", "bias", "out"), f"*{dtype}") | dict.fromkeys(("weight", "scale", "shift"), "*fp32")
    types |= {"eps": "fp32", "height": "i32", "width": "i32"}
    for channels in (192, 384, 768, 1536):
        block = channels // 3
        constants = {"CHANNELS": channels, "BLOCK": block, "BLOCKS": 3, "ROWS": max(1, depthwise._VALUES // block)}
        constants["PACKED"] = dtype == "bf16"
        _, registers, stack = compile_for(capability, depthwise._kernel, types, constants)
        # Three programs of 128 threads a multiprocessor, at least.
        assert registers <= 168 and stack <= MOST_SPILLED, channels

    sizes = ("heads", "queries", "keys", "keys_a_part", "parts")
    steps = [f"{kind}_{axis}" for kind in ("query", "key", "value") for axis in ("batch", "head", "row")]
    types = dict.fromkeys((*sizes, *steps), "i32") | dict.fromkeys(("query", "key", "value", "out"), f"*{dtype}")
    types |= {"allowed": "*u8", "sums": "*fp32", "peaks": "*fp32", "scale": "fp32"}
    constants = {"CHANNELS": 32, "QUERIES": attention._QUERIES, "KEYS": attention._KEYS}
    for kernel in (attention._part_kernel, attention._join_kernel):
        mine = {name: kind for name, kind in types.items() if name in kernel.arg_names}
        own = {name: value for name, value in constants.items() if name in kernel.arg_names}
        assert compile_for(capability, kernel, mine, own)[2] <= MOST_SPILLED, kernel.__name__


# --- what needs no kernel -----------------------------------------------------------------------------------------


def test_activations_are_part_of_products() -> None:
    x = numbers(2, 3, 24)
    for gelu, activation, limit in ((False, F.relu, 1e-6), (True, F.gelu, 1e-3)):
        linear = nn.Linear(24, 40).to(DEVICE)
        with torch.inference_mode():
            assert relative(ActivatedLinear(linear, gelu=gelu)(x), activation(linear(x))) < limit


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pooling_of_short_numbers_is_exact(dtype: torch.dtype) -> None:
    # A sum in float16 would end at 65,504, and one in bfloat16 would stop growing at 256.
    features = numbers(1, 5, 300, 300, dtype=dtype) + 2
    masks = numbers(1, 3, 300, 300, seed=1) > 0
    masks[:, 2] = False
    found = pool_masks(features, masks)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, mask_pool(features, masks), rtol=1e-5, atol=1e-6)
    assert not found[:, 2].any()


def test_patches_are_a_convolution() -> None:
    convolution = nn.Conv2d(3, 8, 4, stride=4).to(DEVICE)
    image = numbers(2, 3, 12, 20).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(PatchProjection(convolution)(image), convolution(image), rtol=1e-5, atol=1e-5)


def test_a_machine_without_working_kernels_costs_kernels_alone(
    model: FCCLIP, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # An old Triton, no C compiler, a driver that is too old: each raises something else when a kernel is launched.
    def fails(*_: object) -> tuple[torch.Tensor, torch.Tensor]:
        raise KeyError("no such intrinsic\nmore")

    def is_wrong(*_: object) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(3), torch.ones(3) * 1.1

    monkeypatch.setattr(probe, "PROBES", {probe.SAMPLING: fails, probe.CONVOLUTION: is_wrong, probe.ATTENTION: fails})
    monkeypatch.setattr(gpu_network, "PROBES", probe.PROBES)
    fast, kernels = for_gpu(model.to(DEVICE), DEVICE, torch.bfloat16)
    assert kernels == set()
    said = "deformable attention runs without its Triton kernel, which is slower: KeyError: 'no such intrinsic"
    assert said in caplog.text
    assert (
        "depthwise convolution runs without its Triton kernel, which is slower: its result is off by 0.1" in caplog.text
    )
    exact, found = answer(model, torch.float32), answer(fast, torch.bfloat16)
    short = answer(in_precision(model, torch.bfloat16), torch.bfloat16)
    allowed = 2 * relative(short.mask_logits, exact.mask_logits)
    assert relative(found.mask_logits, exact.mask_logits) < allowed
