"""A skip for a part that could have been installed turns a strict run red; one that the machine dictates does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import allowed_skips
from allowed_skips import ALLOWED, AllowedSkip, allowed

HERE = Path(__file__).parent
LISTED = "could not import 'cv_bridge': No module named 'cv_bridge'"
UNLISTED = "could not import 'onnx': No module named 'onnx'"


def run(folder: Path, test: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs `test` with the rules of this folder, as a run without ROS sees them."""
    shutil.copy(HERE / "conftest.py", folder)
    shutil.copy(HERE / "allowed_skips.py", folder)
    with (folder / "allowed_skips.py").open("a") as file:
        file.write("\nALLOWED = (AllowedSkip(r'\\bcv_bridge\\b', 'not on PyPI', lambda: True),)\n")
    (folder / "test_it.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(folder)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    "test",
    [
        pytest.param("import pytest\ndef test_it():\n    pytest.skip({0!r})\ndef test_ok(): pass\n", id="test"),
        pytest.param(
            "import pytest\n@pytest.mark.skipif(True, reason={0!r})\ndef test_it(): pass\ndef test_ok(): pass\n",
            id="mark",
        ),
        pytest.param("import pytest\npytest.skip({0!r}, allow_module_level=True)\n", id="module"),
    ],
)
def test_an_unlisted_skip_turns_a_strict_run_red(tmp_path: Path, test: str) -> None:
    done = run(tmp_path, test.format(UNLISTED), "--strict-skips")
    assert done.returncode != 0
    assert f"1 x {UNLISTED}  [NOT ALLOWED" in done.stdout


def test_a_listed_skip_is_said_with_its_reason(tmp_path: Path) -> None:
    test = f"import pytest\ndef test_it():\n    pytest.skip({LISTED!r})\ndef test_ok(): pass\n"
    done = run(tmp_path, test, "--strict-skips")
    assert done.returncode == 0, done.stdout
    assert f"1 x {LISTED}  [allowed: not on PyPI]" in done.stdout


def test_whoever_runs_some_tests_is_told_and_not_refused(tmp_path: Path) -> None:
    test = f"import pytest\ndef test_it():\n    pytest.skip({UNLISTED!r})\ndef test_ok(): pass\n"
    done = run(tmp_path, test)
    assert done.returncode == 0, done.stdout
    assert "NOT ALLOWED" in done.stdout


def test_a_part_that_the_machine_can_have_is_not_excused(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX was skipped in every CI run, because its install failed and nobody was told."""
    reason = "could not import 'tensorrt_rtx': No module named 'tensorrt_rtx'"
    monkeypatch.setattr(allowed_skips.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(allowed_skips.platform, "libc_ver", lambda: ("glibc", "2.39"))
    assert allowed(reason) is None
    monkeypatch.setattr(allowed_skips.platform, "machine", lambda: "aarch64")
    assert allowed(reason) in ALLOWED


def test_an_entry_counts_only_while_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = AllowedSkip("^no GL", "no library", lambda: False)
    monkeypatch.setattr(allowed_skips, "ALLOWED", (entry,))
    assert allowed("no GL here") is None


def test_make_test_is_strict() -> None:
    """CI runs `make test`; without the option it would go back to skipping in silence."""
    runs = [line for line in (HERE.parent / "Makefile").read_text().splitlines() if "-m pytest" in line]
    assert runs
    assert all("--strict-skips" in line for line in runs)


@pytest.mark.parametrize(
    ("interpreted", "collected"), [("0", "test_kernels_in_the_interpreter"), ("1", "test_kernel_refuses_doubles")]
)
def test_tests_of_kernels_are_collected_where_they_run(interpreted: str, collected: str) -> None:
    """Both in one process, and one of them would be skipped, as if it had not run."""
    pytest.importorskip("triton")
    files = ("core/kernels/test_deformable_triton.py", "core/kernels/test_interpreted_kernels.py")
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "", *files],
        cwd=HERE,
        env=os.environ | {"TRITON_INTERPRET": interpreted, "CUDA_VISIBLE_DEVICES": "", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    ).stdout
    names = {line.partition("::")[2] for line in found.splitlines() if "::" in line}
    assert names & {"test_kernels_in_the_interpreter", "test_kernel_refuses_doubles"} == {collected}, found


def test_setup_takes_tensorrt_rtx_as_it_comes() -> None:
    """NVIDIA's metapackages are source archives of a few lines: `--only-binary :all:` refused them on every machine."""
    makefile = (HERE.parent / "Makefile").read_text()
    assert "'.[rtx]'" in makefile
    assert "--only-binary" not in makefile
