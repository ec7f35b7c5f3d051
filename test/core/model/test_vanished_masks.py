"""Masks that vanish at stride 32: which cells they are pooled over, on every backend, and who chooses."""

from __future__ import annotations

import argparse
import functools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from fcclip_core import InferenceSettings, Segmenter, Vocabulary
from fcclip_core.backends import LIBRARIES
from fcclip_core.backends.compiled import CompiledBackend
from fcclip_core.backends.eager import EagerBackend
from fcclip_core.backends.onednn import OneDnnBackend
from fcclip_core.commands import evaluate, export, segment
from fcclip_core.errors import SettingsError
from fcclip_core.export.input_spec import InputSpec
from fcclip_core.export.onnx_export import export_onnx
from fcclip_core.kernels.library_products import pool_masks
from fcclip_core.model.backbone import ResNetTower, mask_pool
from fcclip_core.model.config import ResNetConfig
from fcclip_core.model.fcclip import FCCLIP, ModelOutput
from fcclip_core.model.precision import in_precision
from fcclip_core.model.vanished_masks import positive_cells, positive_or_best_cell
from fcclip_core.settings import BEST_CELL, PUBLISHED, VANISHED_MASKS
from fcclip_core.weights.checkpoints import load_checkpoint, load_model

CPU = torch.device("cpu")
SETTINGS = InferenceSettings(shorter_side=64, overlap_threshold=0.0)

# Three columns, two rows; one mask a line.
LOGITS = torch.tensor(
    [
        [[0.5, -1.0, 2.0], [-3.0, 0.1, -0.1]],  # there: its positive cells, and no other
        [[-5.0, -4.0, -2.0], [-0.5, -9.0, -1.0]],  # vanished: the cell at the left of row 1
        [[-7.0, -2.0, -3.0], [-2.0, -2.0, -7.0]],  # vanished, three cells equal: the first of them
        [[-1.0, -1.0, -1.0], [-1.0, 0.0, -1.0]],  # 0 is not inside a mask, but the best there is
    ]
)[None]
INSIDE = ["#.# .#.", "... ...", "... ...", "... ..."]
INSIDE_OR_BEST = ["#.# .#.", "... #..", ".#. ...", "... .#."]


def drawn(cells: torch.Tensor) -> list[str]:
    return [" ".join("".join(".#"[int(cell)] for cell in row) for row in mask) for mask in cells[0].tolist()]


# --- cells --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cells_by_hand(dtype: torch.dtype) -> None:
    assert drawn(positive_cells(LOGITS.to(dtype))) == INSIDE
    assert drawn(positive_or_best_cell(LOGITS.to(dtype))) == INSIDE_OR_BEST


def test_each_image_of_a_batch_has_cells_of_its_own() -> None:
    cells = positive_or_best_cell(torch.cat((LOGITS, LOGITS.flip(1))))
    assert drawn(cells[:1]) == INSIDE_OR_BEST
    assert drawn(cells[1:]) == INSIDE_OR_BEST[::-1]


def test_where_no_mask_vanishes_both_are_the_same() -> None:
    logits = torch.randn(2, 30, 5, 7, generator=torch.Generator().manual_seed(0))
    logits[:, :, 2, 3] = logits[:, :, 2, 3].abs() + 1e-6
    assert torch.equal(positive_or_best_cell(logits), positive_cells(logits))


@pytest.mark.parametrize("pool", [mask_pool, pool_masks])
def test_pooling_by_hand(pool: object) -> None:
    """Channel 0 counts the cells, channel 1 tells the rows apart."""
    features = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], [[1.0, 1.0, 1.0], [9.0, 9.0, 9.0]]])[None]
    published, best = pool(features, positive_cells(LOGITS)), pool(features, positive_or_best_cell(LOGITS))
    there = [2.0, 11 / 3]
    torch.testing.assert_close(published[0], torch.tensor([there, [0, 0], [0, 0], [0, 0]]))
    torch.testing.assert_close(best[0], torch.tensor([there, [3.0, 9.0], [1.0, 1.0], [4.0, 9.0]]))


def test_attention_pooling_of_one_cell_is_its_value() -> None:
    """The ResNets' head: a softmax over one cell is 1, so the answer is its value, projected."""
    torch.manual_seed(0)
    tower = ResNetTower(ResNetConfig((1, 1, 1, 1), 8, 64), 16).eval()
    res5 = torch.randn(1, 256, 2, 3)
    with torch.inference_mode():
        found = tower.embed_masks(res5, positive_or_best_cell(LOGITS))[0, 1]
        cell = res5[0, :, 1, 0] + tower._position_grid(2, 3)[3]
        expected = tower.attnpool.c_proj(tower.attnpool.v_proj(cell))
        nothing = tower.embed_masks(res5, positive_cells(LOGITS))[0, 1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(nothing, tower.attnpool.c_proj.bias)


# --- the network and its backends ---------------------------------------------------------------------------------


def picture(batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, 96, 128, generator=torch.Generator().manual_seed(0))


@functools.cache
def network(form: str) -> FCCLIP:
    return load_model(load_checkpoint("recipe:tiny"), form)


@functools.cache
def eagers(form: str) -> ModelOutput:
    return EagerBackend(network(form), CPU)(picture())


def test_only_the_embeddings_of_vanished_masks_differ() -> None:
    published, best = eagers(PUBLISHED), eagers(BEST_CELL)
    survives = published.mask_survives
    assert survives.any() and not survives.all(), "a picture that shows nothing"
    for name in ("mask_logits", "in_vocab_embedding", "mask_survives"):
        assert torch.equal(getattr(best, name), getattr(published, name)), name
    assert torch.equal(best.out_vocab_embedding[survives], published.out_vocab_embedding[survives])
    vanished = published.out_vocab_embedding[~survives]
    torch.testing.assert_close(vanished, vanished[:1].expand_as(vanished))  # nothing looks the same everywhere
    assert ((best.out_vocab_embedding[~survives] - vanished).norm(dim=-1) > 1e-2 * vanished.norm(dim=-1)).all()


@functools.cache
def exported() -> bytes:
    return export_onnx(network(BEST_CELL), InputSpec.of(picture(), "fp32"))


def assert_eagers(found: ModelOutput, limit: float = 1e-3) -> None:
    """Every query's embedding is eager's: one best cell that differs would be far off."""
    expected = eagers(BEST_CELL)
    assert torch.equal(found.mask_survives, expected.mask_survives)
    apart = (found.out_vocab_embedding.float() - expected.out_vocab_embedding).norm(dim=-1)
    assert float((apart / expected.out_vocab_embedding.norm(dim=-1)).max()) < limit


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_runtimes_choose_eagers_cells(library: str) -> None:
    for module in ("onnx", library):
        pytest.importorskip(module)
    made = LIBRARIES[library](CPU, "fp32")
    built = made.build(lambda _: exported(), lambda *_: None)
    assert_eagers(ModelOutput(*made.load(built, InputSpec.of(picture(), "fp32"))(picture())))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporter that `export_onnx` uses
@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_runtimes_take_the_first_of_equal_cells(library: str, precision: str, tmp_path: Path) -> None:
    """Short numbers are often equal, and runtimes have their own ways to find a maximum."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip(library)

    class Cells(torch.nn.Module):
        def forward(self, logits: torch.Tensor) -> torch.Tensor:
            return positive_or_best_cell(logits)

    steps = torch.randint(0, 12, (2, 250, 25, 34), generator=torch.Generator().manual_seed(0))
    logits = -steps.to({"fp32": torch.float32, "fp16": torch.float16}[precision]) / 4
    path = tmp_path / "cells.onnx"
    torch.onnx.export(Cells(), (logits,), str(path), dynamo=False, opset_version=17, input_names=["logits"])
    if library == "onnxruntime":
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(None, {"logits": logits.numpy()})[0]
    else:
        found = runtime.Core().compile_model(str(path), "CPU")([logits.numpy()])[0]
    flat = logits.float().flatten(2).numpy()
    assert (found.reshape(flat.shape).sum(-1) == 1).all()
    np.testing.assert_array_equal(found.reshape(flat.shape).argmax(-1), flat.argmax(-1))  # numpy's is the first


def test_graphs_need_no_operation_that_runtimes_disagree_on() -> None:
    onnx = pytest.importorskip("onnx")
    found = Counter(node.op_type for node in onnx.load_from_string(exported()).graph.node)
    assert found["ArgMax"] == 1
    assert not {"TopK", "GridSample", "NonZero", "Loop", "If", "Range", "CumSum", "OneHot", "ScatterND"} & set(found)


def test_onednn_chooses_eagers_cells(tmp_path: Path) -> None:
    assert_eagers(OneDnnBackend(network(BEST_CELL), CPU, "fp32", tmp_path)(picture()))


@pytest.mark.parametrize("compiler", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_the_compiled_network_chooses_eagers_cells(compiler: str) -> None:
    assert_eagers(CompiledBackend(network(BEST_CELL), CPU, compiler=compiler)(picture()))


@pytest.mark.slow
def test_no_mask_is_lost_where_short_numbers_are_compiled() -> None:
    """A compiler computes a logit once for each who reads it, and rounds it for some of them only."""
    found = CompiledBackend(network(BEST_CELL), CPU, dtype=torch.bfloat16)(picture())
    nothing = CompiledBackend(network(PUBLISHED), CPU, dtype=torch.bfloat16, compiler=None)(picture())
    vanished = found.out_vocab_embedding[~found.mask_survives]
    of_nothing = nothing.out_vocab_embedding[~nothing.mask_survives][0]
    assert len(vanished) and ((vanished - of_nothing).norm(dim=-1) > 1e-2 * of_nothing.norm()).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_copies_in_other_precisions_keep_the_form(dtype: torch.dtype) -> None:
    lowered = in_precision(network(BEST_CELL), dtype)
    with torch.inference_mode():
        output = lowered(picture().to(dtype))
    assert lowered.vanished_masks == BEST_CELL
    vanished = output.out_vocab_embedding[~output.mask_survives].float()
    assert len(vanished) > 1 and float(vanished.std(0).max()) > 0, "all vanished masks look the same: as published"


# --- who chooses --------------------------------------------------------------------------------------------------


def segmenter(tmp_path: Path, **options: object) -> Segmenter:
    made = Segmenter.from_checkpoint(
        "recipe:tiny", device="cpu", backend="eager", settings=SETTINGS, cache_dir=tmp_path, **options
    )
    made.set_vocabulary(Vocabulary.from_names(["a", "b", "c"]), text_embeddings=np.eye(3, 64, dtype=np.float32))
    return made


def test_published_unless_asked(tmp_path: Path) -> None:
    """The bundled model, too: docs/reference/results.md says what was measured."""
    assert Segmenter.from_checkpoint("demo", device="cpu", cache_dir=tmp_path).vanished_masks == PUBLISHED
    assert load_model(load_checkpoint("demo")).vanished_masks == PUBLISHED


def test_a_wrong_choice_is_named_with_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="vanished_masks is 'nearest'; it must be one of published, best_cell"):
        segmenter(tmp_path, vanished_masks="nearest")


@pytest.mark.parametrize(
    ("form", "preset", "given", "meant"),
    [
        (PUBLISHED, True, None, True),
        (PUBLISHED, False, None, False),
        (BEST_CELL, True, None, False),  # the best cell says something, so it is asked
        (BEST_CELL, False, None, False),
        (BEST_CELL, True, True, True),
        (PUBLISHED, True, False, False),
    ],
)
def test_what_auto_means_for_valid_masks(
    form: str, preset: bool, given: bool | None, meant: bool, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint("recipe:tiny")
    checkpoint = replace(checkpoint, config=replace(checkpoint.config, valid_mask_only=preset))
    settings = replace(SETTINGS, valid_mask_only=given)
    made = Segmenter(checkpoint, device="cpu", backend="eager", vanished_masks=form, cache_dir=tmp_path)
    made.settings = settings
    assert made.settings.valid_mask_only is meant


def test_a_best_cell_counts_unless_valid_masks_alone_do(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :90]
    image = np.stack((3 * x, 4 * y, x + y), -1).clip(0, 255).astype(np.uint8)
    forms = {form: segmenter(tmp_path, vanished_masks=form) for form in VANISHED_MASKS}
    assert forms[BEST_CELL].vanished_masks == BEST_CELL
    assert not forms[PUBLISHED].encode(image).output.mask_survives.all(), "a picture that shows nothing"

    def apart(valid_mask_only: bool) -> float:
        answers = []
        for made in forms.values():
            made.settings = replace(SETTINGS, valid_mask_only=valid_mask_only)
            answers.append(made.predict(image).class_probs)
        return float((answers[0] - answers[1]).abs().max())

    assert apart(valid_mask_only=True) == 0
    assert apart(valid_mask_only=False) > 1e-3


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (evaluate, ["evaluate", "world"]),
        (export, ["export", "demo"]),
        (segment, ["segment", "x.png", "--vocab", "cup", "--out", "out"]),
    ],
)
def test_every_command_that_runs_the_network_has_the_choice(command: ModuleType, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    assert parser.parse_args(arguments).vanished_masks == PUBLISHED
    assert parser.parse_args([*arguments, "--vanished-masks", BEST_CELL]).vanished_masks == BEST_CELL
