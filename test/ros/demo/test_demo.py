"""The whole demo with its three processes, on the tiny model and a recorded drive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from demo.__main__ import _prepare_environment
from demo.vocabularies import chapters
from fcclip_core.datasets.drive_recording import Recording
from fcclip_core.simulation.bundled_drive import bundled_drive
from fcclip_core.simulation.names import HELD_OUT_STUFF, class_names, train_vocabulary, world_vocabulary

CHAPTERS = chapters()


def command(out: Path, *arguments: str) -> list[str]:
    quick = ["--seconds", "9", "--rate", "6", "--out", str(out)]
    return [sys.executable, "-m", "demo", "--checkpoint", "recipe:tiny", *quick, *arguments]


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


def test_last_chapter_asks_for_what_training_never_showed() -> None:
    trained = set(train_vocabulary().synonyms)
    last = CHAPTERS[-1].vocabulary
    new = [item for item in last.classes if not trained & set(item.synonyms)]
    assert {item.name for item in new} == set(class_names("all")) - set(class_names("train"))
    assert {item.name for item in new if not item.is_thing} == set(HELD_OUT_STUFF)
    assert trained <= set(last.synonyms), "what is known has a class to go to"


def test_every_chapter_only_uses_words_of_the_world_beside_its_class_names() -> None:
    words = set(world_vocabulary().names)
    for chapter in CHAPTERS:
        for item in chapter.vocabulary.classes:
            assert set(item.synonyms[1:]) <= words, item
            assert len(item.synonyms) > 1 or item.name in words, item


def test_recorded_drive_shows_words_of_every_chapter() -> None:
    recording = Recording(bundled_drive())
    shown = {segment.name for index in range(len(recording)) for segment in recording[index].segments}
    new = set(class_names("all")) - set(class_names("train"))
    assert len(shown & new) >= 5
    assert len(shown - new) >= 10


def test_words_that_are_asked_afterwards_are_in_no_chapter() -> None:
    kept_out = {"striped mug", "red ball"}
    for before, after in zip(CHAPTERS, chapters(kept_out), strict=True):
        words = {word for item in after.vocabulary.classes for word in item.synonyms}
        assert words == {word for item in before.vocabulary.classes for word in item.synonyms} - kept_out


@pytest.mark.slow
def test_demo_labels_and_scores_frames_under_every_vocabulary(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "--recording", str(bundled_drive())), capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = (tmp_path / "report.md").read_text()
    assert "All passed" in report
    for version, chapter in enumerate(CHAPTERS, 1):
        with Image.open(tmp_path / f"vocabulary_{version}.png") as still:
            assert still.size[0] > 3 * 320
        assert f"| {version}: {chapter.title} |" in report
        assert f"PQ, vocabulary {version}" in done.stdout
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames >= 6
    # Random weights know no words, but every question has its answer.
    assert report.count("not part of the checks") == 1
    assert len([line for line in report.splitlines() if line.startswith("| `")]) == 4
    with Image.open(tmp_path / "map.png") as drawn:
        assert drawn.size[0] == 1200
    assert (tmp_path / "objects.db").stat().st_size > 0
    wait_until_gone(tmp_path)


@pytest.mark.slow
def test_without_gl_the_recorded_drive_is_played(tmp_path: Path) -> None:
    environment = os.environ | {"MUJOCO_GL": "glfw"}
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=180, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "cannot be rendered here, a recorded drive is played" in said
    assert "sudo apt install libegl1" in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert any("first labeled frame" in line for line in demo.stdout)
        assert len(processes_of(tmp_path)) == 3
        demo.send_signal(number)
        said = demo.stdout.read()
        assert demo.wait(timeout=60) == 128 + number
    assert "interrupted" in said
    wait_until_gone(tmp_path)


@pytest.mark.slow
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
