"""The network made for processors, and its compiled kernel, against the plain modules."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fcclip_core.backends import create_backend
from fcclip_core.backends.eager import EagerBackend
from fcclip_core.backends.onednn import OneDnnBackend
from fcclip_core.errors import BackendError
from fcclip_core.kernels import deformable_native, native_library
from fcclip_core.kernels.deformable_native import LIBRARY, NativeDeformableAttention, takes
from fcclip_core.kernels.onednn import FusedBlock, FusedLinear, for_processor, text_tower_for_processor
from fcclip_core.model.config import TINY, TextConfig
from fcclip_core.model.deformable_attention import DeformableAttention
from fcclip_core.model.fcclip import FCCLIP, ModelOutput
from fcclip_core.model.text_tower import TextTower
from fcclip_core.model.token_tree import TokenTree
from fcclip_core.vocabulary.text_embeddings import tokenize
from fcclip_core.weights.checkpoints import load_checkpoint, load_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> None:
    try:
        LIBRARY.load(tmp_path_factory.mktemp("kernels"))
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture
def not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LIBRARY, "_loaded", None)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["recipe:tiny", "demo"])
def model(request: pytest.FixtureRequest) -> FCCLIP:
    return load_model(load_checkpoint(request.param))


def picture(height: int = 96, width: int = 128, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def distance(found: ModelOutput, expected: ModelOutput) -> float:
    """Largest relative distance of an output."""
    return max(
        float((getattr(found, name) - value).norm() / value.norm())
        for name, value in vars(expected).items()
        if value.is_floating_point()
    )


def attention(dim: int, heads: int, levels: int, points: int, reach: float) -> DeformableAttention:
    """With offsets of about `reach` pixels, scores that matter, and nothing at zero."""
    torch.manual_seed(0)
    module = DeformableAttention(dim, heads, levels, points).eval()
    for layer, scale in ((module.sampling_offsets, reach), (module.attention_weights, 2.0)):
        torch.nn.init.normal_(layer.weight, std=scale / dim**0.5)
        torch.nn.init.normal_(layer.bias, std=scale)
    return module


@pytest.mark.parametrize("channels", [16, 32, 64])
@pytest.mark.parametrize("shapes", [[(1, 1)], [(3, 5), (6, 10)], [(1, 9), (7, 1), (12, 8)]])
@pytest.mark.parametrize("reach", [0.5, 4.0, 1e3])
@pytest.mark.parametrize("workers", [1, 3])
@torch.inference_mode()
def test_kernel_equals_the_plain_form(
    kernel: None, threads: None, channels: int, shapes: list[tuple[int, int]], reach: float, workers: int
) -> None:
    """Inside, across borders and far outside; rows that do not divide among threads; two images."""
    torch.set_num_threads(workers)
    plain = attention(2 * channels, 2, len(shapes), 4, reach)
    tokens = torch.randn(2, sum(h * w for h, w in shapes), 2 * channels)
    query, reference = torch.randn_like(tokens), torch.rand(tokens.shape[1], 2)
    found = NativeDeformableAttention(plain)(query, tokens, reference, shapes)
    torch.testing.assert_close(found, plain(query, tokens, reference, shapes), atol=2e-4, rtol=2e-4)


@torch.inference_mode()
def test_kernel_in_bfloat16_rounds_once(kernel: None) -> None:
    """The sum is float32 and its one rounding is to the nearest: the same numbers widened beforehand give it, too."""
    short = attention(64, 4, 2, 4, 2.0).bfloat16()
    tokens = torch.randn(1, 300, 64).bfloat16()
    offsets, scores, value = (
        layer(tokens) for layer in (short.sampling_offsets, short.attention_weights, short.value_proj)
    )
    sides, centers = [6, 10, 12, 20], torch.rand(300, 2)
    found = deformable_native._attend_natively(value.unflatten(-1, (4, 16)), sides, centers, offsets, scores)
    widened = [x.float() for x in (offsets, scores)]
    expected = deformable_native._attend_natively(value.unflatten(-1, (4, 16)).float(), sides, centers, *widened)
    assert found.dtype == torch.bfloat16
    # A float32 sum in another order may fall on the other side of a tie.
    assert (found != expected.bfloat16()).float().mean() < 1e-3


@torch.inference_mode()
def test_kernel_keeps_nan(kernel: None) -> None:
    value = torch.full((1, 4, 1, 16), torch.nan, dtype=torch.bfloat16)
    zeros = torch.zeros(1, 4, 2, dtype=torch.bfloat16)
    found = deformable_native._attend_natively(value, [2, 2], torch.full((4, 2), 0.5), zeros, zeros[..., :1])
    assert found.isnan().all()


def test_sizes_without_a_kernel_stay_plain() -> None:
    assert takes(DeformableAttention(64, 4, 3, 4))
    assert not takes(DeformableAttention(32, 4, 3, 4)), "8 channels a head"
    assert not takes(DeformableAttention(64, 4, 3, 30)), "90 points a query"


@pytest.mark.parametrize("native", [False, True])
def test_float32_gives_eagers_answer(kernel: None, model: FCCLIP, native: bool) -> None:
    expected = EagerBackend(model, CPU)(picture())
    with torch.inference_mode():
        found = for_processor(model, torch.float32, native=native)(picture())
    assert distance(found, expected) < 1e-3
    assert torch.equal(found.mask_survives, expected.mask_survives)


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_text_tower_gives_the_plain_answer(quick_gelu: bool) -> None:
    torch.manual_seed(0)
    text = TextConfig(width=64, heads=4, layers=3, quick_gelu=quick_gelu)
    tower = TextTower(replace(TINY, text=text, embed_dim=48)).eval().requires_grad_(False)
    for parameter in tower.parameters():
        parameter.mul_(5.0)  # Weights of a size at which the two activations differ visibly.
    kinds = [type(module) for module in tower.modules()]
    fused = text_tower_for_processor(tower)
    assert sum(isinstance(module, FusedLinear) for module in fused.modules()) == 3 * 3
    assert [type(module) for module in tower.modules()] == kinds
    tokens = tokenize(["a cup", "a photo of a rather large espresso machine."])
    tree = TokenTree.of([[7, 1, 2, 9], [7, 1, 9], [7, 3, 9]])
    torch.testing.assert_close(fused(tokens), tower(tokens), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fused.read(tree), tower.read(tree), rtol=1e-4, atol=1e-4)


def test_the_model_stays_as_it_is(kernel: None, model: FCCLIP) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    fused = for_processor(model, torch.bfloat16, native=True)
    assert any(isinstance(module, FusedBlock) for module in fused.modules())
    assert [type(module) for module in model.modules()] == kinds
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype, name
        assert torch.equal(tensor, before[name]), name


def test_a_batch_gives_what_its_images_give(kernel: None, tmp_path: Path, model: FCCLIP) -> None:
    backend = OneDnnBackend(model, CPU, "fp32", tmp_path)
    images = picture(batch=2)
    together = backend(images)
    for index in range(2):
        alone = backend(images[index : index + 1])
        assert float((together.mask_logits[index] - alone.mask_logits[0]).norm() / alone.mask_logits.norm()) < 1e-3


def test_auto_takes_it_on_a_processor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load_model(load_checkpoint("recipe:tiny"))
    backend = create_backend("auto", model, CPU, cache_dir=tmp_path)
    with caplog.at_level(logging.INFO):
        backend(picture())
    assert "oneDNN" in backend.description


@pytest.mark.parametrize(("compiler", "says"), [("/nowhere/c++", "cannot be compiled"), ("false", "cannot compile")])
def test_without_a_compiler_the_network_runs_all_the_same(
    not_loaded: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    compiler: str,
    says: str,
) -> None:
    monkeypatch.setenv("CXX", compiler)
    model = load_model(load_checkpoint("demo"))
    backend = OneDnnBackend(model, CPU, "fp32", tmp_path)
    assert says in caplog.text
    assert "uncompiled" in backend.description
    assert distance(backend(picture()), EagerBackend(model, CPU)(picture())) < 1e-3


def test_a_kernel_is_compiled_once(not_loaded: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    LIBRARY.load(tmp_path)
    kernel = next(tmp_path.glob("deformable_native-*.so"))
    made = kernel.stat().st_mtime_ns
    monkeypatch.setattr(LIBRARY, "_loaded", None)
    LIBRARY.load(tmp_path)
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [made]


@pytest.mark.parametrize("damage", ["empty", "a twentieth", "half", "one byte less", "another byte"])
def test_a_damaged_kernel_is_compiled_again(
    not_loaded: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """Loading one would end the process: the loader reads what lies beyond the end of the file."""
    LIBRARY.load(tmp_path / "whole")
    whole = next((tmp_path / "whole").iterdir())
    content = bytearray(whole.read_bytes())
    if damage == "another byte":
        content[len(content) // 3] ^= 1
    else:
        kept = {"empty": 0, "a twentieth": len(content) // 20, "half": len(content) // 2}
        del content[kept.get(damage, len(content) - 1) :]
    # In another place: this process runs the whole one.
    damaged = tmp_path / "damaged" / whole.name
    damaged.parent.mkdir()
    damaged.write_bytes(content)
    monkeypatch.setattr(LIBRARY, "_loaded", None)
    LIBRARY.load(damaged.parent)
    assert "is damaged, so it is compiled again" in caplog.text
    assert damaged.stat().st_size == whole.stat().st_size


@pytest.mark.parametrize("shared", ["the folder", "the file"])
def test_a_kernel_that_others_could_have_planted_is_not_loaded(
    not_loaded: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, shared: str
) -> None:
    LIBRARY.load(tmp_path / "kernels")
    planted = next((tmp_path / "kernels").iterdir())
    (planted.parent if shared == "the folder" else planted).chmod(0o777)
    before = planted.stat().st_ino
    loaded: list[str] = []
    real = native_library.ctypes.CDLL
    monkeypatch.setattr(native_library.ctypes, "CDLL", lambda path: loaded.append(path) or real(path))
    monkeypatch.setattr(LIBRARY, "_loaded", None)
    LIBRARY.load(tmp_path / "kernels")
    assert "everybody can write to it" in caplog.text
    if shared == "the folder":
        assert not Path(loaded[0]).is_relative_to(tmp_path)
    else:
        assert planted.stat().st_ino != before
        assert planted.stat().st_mode & 0o022 == 0


def test_a_folder_that_cannot_be_used_costs_time_alone(
    not_loaded: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As root, a file in the way stands for a folder without write permission."""
    (tmp_path / "file").write_text("")
    LIBRARY.load(tmp_path / "file" / "built")
    assert LIBRARY._loaded
    assert "FCCLIP_CACHE_DIR" in caplog.text


def test_fp16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="fp32 or bf16"):
        OneDnnBackend(load_model(load_checkpoint("recipe:tiny")), CPU, "fp16", tmp_path)
