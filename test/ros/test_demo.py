"""The whole demo with its three processes, on the tiny model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcclip_ros.demo.__main__ import PHOTOS, VOCABULARIES, _prepare_environment

pytestmark = pytest.mark.slow


def command(out: Path, *arguments: str) -> list[str]:
    quick = ["--shorter-side", "128", "--seconds", "9", "--rate", "8", "--out", str(out)]
    return [sys.executable, "-m", "fcclip_ros.demo", "--checkpoint", "recipe:tiny", *quick, *arguments]


def processes_of(out: Path) -> list[str]:
    """Commands of the processes whose log lies in the demo's folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and str(out) in os.readlink(process / "fd" / "1"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def wait_until_gone(out: Path) -> None:
    deadline = time.monotonic() + 10
    while processes_of(out):
        assert time.monotonic() < deadline, processes_of(out)
        time.sleep(0.1)


def test_demo_labels_every_scene_with_every_vocabulary(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    scenes = sorted(path.stem for path in PHOTOS.glob("*.jpg"))
    assert len(scenes) >= 3
    pictures = sorted(path.name for path in tmp_path.glob("*.jpg"))
    assert pictures == sorted(f"{scene}_v{version}.jpg" for scene in scenes for version in (1, 2, 3))
    for name in pictures:
        photo = np.asarray(Image.open(PHOTOS / f"{name.rpartition('_')[0]}.jpg").convert("RGB")).astype(int)
        picture = np.asarray(Image.open(tmp_path / name)).astype(int)
        height, width = photo.shape[:2]
        assert np.abs(picture[:height, :width] - photo).mean() < 4, "the left half is the photograph"
        assert np.abs(picture[:height, -width:] - photo).mean() > 4, "the right half has segments drawn over it"
    report = (tmp_path / "report.md").read_text()
    assert "All passed" in report
    for vocabulary in VOCABULARIES:
        assert "; ".join(vocabulary.names[:1]) in report
    assert "labels mean nothing" in report and "mean nothing" in done.stdout
    wait_until_gone(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert any("first labelled frame" in line for line in demo.stdout)
        assert len(processes_of(tmp_path)) == 2
        demo.send_signal(number)
        said = demo.stdout.read()
        assert demo.wait(timeout=60) == 130
    assert "interrupted" in said
    wait_until_gone(tmp_path)


def test_demo_that_cannot_label_fails_and_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    done = subprocess.run(
        command(tmp_path / "out", "--checkpoint", str(broken)), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "demo failed" in done.stdout and "broken.safetensors" in " ".join(done.stdout.split())
    wait_until_gone(tmp_path)


def test_environment_of_the_user_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    names = (
        "ROS_DOMAIN_ID",
        "ROS_AUTOMATIC_DISCOVERY_RANGE",
        "FASTRTPS_DEFAULT_PROFILES_FILE",
        "FASTDDS_DEFAULT_PROFILES_FILE",
    )
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROS_DOMAIN_ID", "17")
    _prepare_environment()
    chosen = {name: os.environ[name] for name in names}
    for name in names[1:]:
        monkeypatch.delenv(name)
    assert chosen["ROS_DOMAIN_ID"] == "17"
    assert Path(chosen["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()
    assert chosen["FASTDDS_DEFAULT_PROFILES_FILE"] == chosen["FASTRTPS_DEFAULT_PROFILES_FILE"]
