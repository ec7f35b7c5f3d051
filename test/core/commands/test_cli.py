"""The `fcclip` command: what every subcommand shares, and `fcclip weights`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from key_lists import counts, listed_state, only_clip, without_clip

from checkout import ROOT
from fcclip_core import cli
from fcclip_core.errors import FcclipError
from fcclip_core.files import resources
from fcclip_core.weights import weight_files
from fcclip_core.weights.checkpoints import load_checkpoint
from fcclip_core.weights.model_zoo import FC_CLIP, FINE_TUNED, PUBLISHED_MODELS

COMMANDS = ("segment", "weights", "vocab", "train", "evaluate", "export", "world", "doctor")


class FakeCommand:
    """A subcommand `fake` that does what it is told."""

    def __init__(self, run: Callable[[argparse.Namespace], int]) -> None:
        self.run = run

    def add_parser(self, subparsers: argparse._SubParsersAction) -> None:
        subparsers.add_parser("fake").set_defaults(run=self.run)


def fails(_: argparse.Namespace) -> int:
    raise FcclipError("the file is bad; fetch another")


def interrupted(_: argparse.Namespace) -> int:
    raise KeyboardInterrupt


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_help_names_every_command_and_needs_no_torch() -> None:
    code = (
        "import sys\nfrom fcclip_core.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'torch', 'numpy', 'cv2', 'open_clip', 'rich'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert f"\n    {command} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert f"usage: fcclip {command}" in capsys.readouterr().out


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ElementTree.parse(ROOT / "package.xml").findtext("version")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"fcclip {expected}\n"

    def not_installed(_: str) -> str:
        raise resources.PackageNotFoundError

    monkeypatch.setattr(resources, "version", not_installed)
    assert resources.package_version() == expected


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["weights"], ["weights", "import"]])
def test_bad_arguments_end_with_two_and_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert "usage: fcclip" in capsys.readouterr().err


def test_errors_are_a_sentence_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "COMMANDS", (FakeCommand(fails),))
    assert cli.main(["fake"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "fcclip: the file is bad; fetch another\n"
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["--verbose", "fake"], ["fake", "--verbose"]])
def test_verbose_adds_the_traceback(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "COMMANDS", (FakeCommand(fails),))
    assert cli.main(arguments) == 2
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "COMMANDS", (FakeCommand(interrupted),))
    assert cli.main(["fake"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m fcclip_core.cli weights list | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


# --- fcclip weights ---------------------------------------------------------------------------------------------


def test_list_shows_every_model_its_numbers_origin_and_license(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["weights", "list"]) == 0
    out = capsys.readouterr().out
    frozen = out.split("Fine-tuned CLIP")[0]
    lines = {" ".join(line.split()[:-6]): line.split()[-6:] for line in frozen.splitlines()}
    assert lines["ADE20K PQ"] == ["26.8", "17.9", "19.1", "21.8", "22.5", "22.8"]
    assert lines["COCO, seen mIoU"] == ["63.7", "58.8", "58.9", "60.4", "63.3", "65.3"]
    assert lines["dataset"] == [model.key for model in FC_CLIP]
    others = {" ".join(line.split()[:-4]): line.split()[-4:] for line in out.split("Fine-tuned CLIP")[1].splitlines()}
    assert others["dataset"] == [model.key for model in FINE_TUNED]
    assert others["ADE20K PQ"] == ["28.6", "27.1", "-", "-"]
    assert others["ADE20K mIoU"] == ["-", "-", "36.1", "34.6"]
    assert "content-dependent transfer, which is not computed here" in out
    for model in PUBLISHED_MODELS:
        assert model.url in out
        assert model.clip in out
    assert out.count("license  Apache-2.0") == len(FC_CLIP) + 1
    assert out.count("license  MIT") == 3
    assert max(map(len, out.split("convnext_large: ")[0].splitlines())) <= 80


def test_list_needs_no_torch() -> None:
    done = run_python(
        "import sys; from fcclip_core.cli import main; main(['weights', 'list']); assert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_import_joins_both_files_and_inspect_describes_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {key: tensor.contiguous() for key, tensor in listed_state("tiny").items()}
    torch.save({"model": without_clip(state)}, tmp_path / "fcclip.pth")
    torch.save(only_clip(state), tmp_path / "clip.bin")
    out = tmp_path / "own.safetensors"
    arguments = ["weights", "import", str(tmp_path / "fcclip.pth"), "-o", str(out)]
    arguments += ["--clip", str(tmp_path / "clip.bin"), "--dtype", "float16", "--preset", "tiny"]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert "hashing fcclip.pth" in captured.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.bin", "fcclip.pth", "own.safetensors"]
    loaded = load_checkpoint(out)
    assert [source.role for source in loaded.provenance.sources] == ["FC-CLIP weights", "CLIP weights"]
    assert all(len(source.sha256) == 64 for source in loaded.provenance.sources)

    assert cli.main(["weights", "inspect", str(out)]) == 0
    text = capsys.readouterr().out
    assert "FC-CLIP on tiny" in text
    assert "float16" in text
    assert "training vocabulary (stored): 133 classes, person" in text
    assert "fcclip.pth + clip.bin" in text
    assert "every value is a finite number" in text


def test_import_stores_the_training_vocabulary_that_is_given(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("0:invalid_class_id\n1:pallet,wooden pallet\n2:floor\n")
    arguments = ["weights", "import", "recipe:tiny", "-o", str(tmp_path / "own.safetensors")]
    assert cli.main([*arguments, "--train-vocabulary", str(words)]) == 0
    vocabulary = load_checkpoint(tmp_path / "own.safetensors").train_vocabulary
    assert vocabulary.synonyms == ("pallet", "wooden pallet", "floor")


def test_inspect_counts_a_published_file_without_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": without_clip(listed_state("convnext_large"))}, tmp_path / "fcclip_cocopan.pth")
    assert cli.main(["weights", "inspect", str(tmp_path / "fcclip_cocopan.pth")]) == 0
    out = capsys.readouterr().out
    expected = counts("convnext_large")
    for part in ("pixel_decoder", "transformer_decoder", "trainable"):
        assert f"{expected[part]:,}" in out
    assert "FC-CLIP on convnext_large" in out
    assert "joins it with open_clip's convnext_large_d_320 laion2b_s29b_b131k_ft_soup" in out


def test_inspect_counts_a_whole_published_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": listed_state("rn50")}, tmp_path / "rn50.pth")
    assert cli.main(["weights", "inspect", str(tmp_path / "rn50.pth")]) == 0
    out = capsys.readouterr().out
    expected = counts("rn50")
    for part in ("clip_visual", "clip_text_and_scale", "total"):
        assert f"{expected[part]:,}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "nowhere.pth"], "nowhere.pth does not exist"),
        (["import", "nowhere.pth", "-o", "out.safetensors"], "nowhere.pth does not exist"),
        (["import", "recipe:tiny", "-o", "out.pth"], "out.pth must end in .safetensors"),
        (["import", "recipe:tiny", "-o", "nowhere/out.safetensors"], "nowhere is not a folder"),
        (["import", "recipe:tiny", "-o", "o.safetensors", "--train-vocabulary", "x.yaml"], "x.yaml"),
    ],
)
def test_weights_errors_name_the_file(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["weights", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_during_import_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write_half(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(weight_files, "save_file", write_half)
    assert cli.main(["weights", "import", "recipe:tiny", "-o", str(tmp_path / "own.safetensors")]) == 130
    assert list(tmp_path.iterdir()) == []
