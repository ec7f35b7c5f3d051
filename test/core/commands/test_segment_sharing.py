"""Inputs shared among processes, which are played by threads with one store; real ones: test_segment_shared.py."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from segment_case import FakeSegmenter, names_in, said, save_image

from fcclip_core import devices, torchrun
from fcclip_core.commands import segment
from fcclip_core.commands.segment_jobs import find_jobs
from fcclip_core.commands.segment_outcomes import Display, Outcome, Tally, print_summary
from fcclip_core.commands.segment_sharing import (
    Collector,
    Plan,
    StoreReports,
    end_together,
    handed_out,
    largest_first,
)
from fcclip_core.distributed import SharedStore
from fcclip_core.errors import FcclipError
from fcclip_core.files.folder_claim import FolderClaim, claimed
from fcclip_core.terminal import Terminal
from fcclip_core.torchrun import Place


@pytest.fixture
def store() -> SharedStore:
    return SharedStore(dist.HashStore())


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return [save_image(tmp_path / f"{number}.png") for number in range(5)]


def arguments(photos: list[Path], out: Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    segment.add_parser(parser.add_subparsers())
    given = [*photos, "--out", out, "--vocab", "cup", "--checkpoint", "c", "--overlay", "none", "--device", "cpu"]
    return parser.parse_args(["segment", *map(str, given)])


def test_each_job_is_handed_out_once(store: SharedStore) -> None:
    taken: list[int] = []
    threads = [threading.Thread(target=lambda: taken.extend(handed_out(store, 200))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(200))


def test_the_largest_inputs_come_first_and_missing_ones_last(tmp_path: Path) -> None:
    bag = tmp_path / "run"
    bag.mkdir()
    (bag / "metadata.yaml").write_text("")
    (bag / "run_0.mcap").write_bytes(bytes(5000))
    paths = [save_image(tmp_path / "small.png", 2, 2), tmp_path / "gone.png", bag, tmp_path / "film.mp4"]
    paths[3].write_bytes(bytes(900))
    order = [job.source.name for job in largest_first(find_jobs(paths, tmp_path / "out"))]
    assert order == ["run", "film.mp4", "small.png", "gone.png"]


def test_the_plan_reaches_the_others_as_it_is_and_none_of_a_killed_attempt(store: SharedStore, tmp_path: Path) -> None:
    jobs = find_jobs([tmp_path / "a.png", tmp_path / "caf\udce9.mp4"], tmp_path)
    store.put("question/1", "asked by a process that was killed")
    received: list[Plan] = []
    for token in ("first attempt", "second attempt"):
        plan = Plan(jobs, token)
        plan.answer(store, Place(0, 2))
        other = threading.Thread(target=lambda: received.append(Plan.asked_for(store, Place(1, 2))))
        other.start()
        while other.is_alive():
            plan.answer(store, Place(0, 2))
    assert received == [Plan(jobs, "first attempt"), Plan(jobs, "second attempt")]
    assert store.section("first attempt").count("job") == store.section("second attempt").count("job") == 0


def test_all_processes_end_with_the_same_code(store: SharedStore) -> None:
    codes: list[int] = []
    others = [
        threading.Thread(target=lambda rank=rank: codes.append(end_together(store, Place(rank, 3)))) for rank in (1, 2)
    ]
    for other in others:
        other.start()
    assert end_together(store, Place(0, 3), 1) == 1
    for other in others:
        other.join()
    assert codes == [1, 1]


@pytest.fixture
def lost_at_second_frame(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The GPU of the process that computes a second frame first."""

    def fail(frame: int) -> None:
        if frame == 2:
            monkeypatch.setattr(devices, "fault", lambda device: "CUDA error: unspecified launch failure")
            raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr("fcclip_core.segmenter.Segmenter", AnyDevice)
    monkeypatch.setattr(FakeSegmenter, "on_frame", staticmethod(fail))
    yield


class AnyDevice(FakeSegmenter):
    """May be asked for any device."""

    @classmethod
    def from_checkpoint(cls, source: str, **options: object) -> FakeSegmenter:
        return super().from_checkpoint(source, **options | {"device": "auto"})


def test_a_process_that_loses_its_gpu_leaves_the_rest_to_the_others(
    store: SharedStore,
    photos: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    lost_at_second_frame: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    args = arguments(photos, out)
    jobs = find_jobs(photos, out)
    tally, console = Tally(jobs), Terminal(stderr=True, soft_wrap=True)
    quiet = Terminal(stderr=True, quiet=True)
    with (
        claimed(out) as claim,
        Display(tally, console) as display,
        Collector(store, Place(0, 2), Plan(jobs, claim.token), display, tally).running() as wait_for_all,
    ):
        ours = store.section(claim.token)
        segment._take_part(args, claim, jobs, ours, Place(1, 2), quiet)
        monkeypatch.setattr(devices, "fault", lambda device: "")
        monkeypatch.setattr(FakeSegmenter, "on_frame", staticmethod(lambda frame: None))
        segment._take_part(args, claim, jobs, ours, Place(0, 2), console, display)
        wait_for_all()
    print_summary(tally, out, console)
    assert [job.stem for job in tally.failed] == ["1"], "the one that was in work"
    assert [name for name in names_in(out) if name.endswith(".json")] == ["0.json", "2.json", "3.json", "4.json"]
    told = said(capsys)
    assert "lost process 1: cpu is lost to this process, which must be started again: CUDA error" in told
    assert "4 of 5 inputs segmented" in told and "processes that gave up: 1; start the command again" in told
    assert f"failed: {photos[1]}" in told


def test_a_process_that_sees_another_folder_takes_no_job(
    store: SharedStore,
    photos: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fcclip_core.files.folder_claim._SEEN_AFTER", 0.0)
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    jobs = find_jobs(photos, tmp_path / "here")
    tally = Tally(jobs)
    display = Display(tally, Terminal(stderr=True, soft_wrap=True))
    with (
        claimed(tmp_path / "here") as claim,
        Collector(store, Place(0, 1), Plan(jobs, claim.token), display, tally).running() as wait_for_all,
    ):
        other = FolderClaim(tmp_path / "there", claim.token)
        args, quiet = arguments(photos, other.folder), Terminal(stderr=True, quiet=True)
        segment._take_part(args, other, jobs, store.section(claim.token), Place(0, 1), quiet)
        wait_for_all()
    assert names_in(other.folder) == [] and len(tally.failed) == len(jobs)
    assert "is not the folder that the first process writes to; --out must be on a file system" in said(capsys)


def test_what_other_processes_say_is_said_once(
    store: SharedStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = find_jobs([tmp_path / "a.png", tmp_path / "b.mp4"], tmp_path)
    tally = Tally(jobs)
    for rank, outcome in enumerate((Outcome("failed", reason="no such file"), Outcome("labeled", notes=["3 lost"]))):
        reports = StoreReports(store.section("run"), Place(rank, 2))
        reports.frames("b.mp4", 1, 9)
        reports.finished(rank, outcome)
        reports.ended("eager")
    display = Display(tally, Terminal(stderr=True, soft_wrap=True))
    with Collector(store, Place(0, 2), Plan(jobs, "run"), display, tally).running() as wait_for_all:
        wait_for_all()
    print_summary(tally, tmp_path, Terminal(stderr=True, soft_wrap=True))
    told = said(capsys)
    assert told.count("no such file") == told.count("3 lost") == 1
    assert "1 of 2 inputs segmented" in told and told.count("(eager)") == 1


@pytest.mark.parametrize(
    ("rank", "size", "complaint"),
    [("x", "2", "RANK is 'x' in the environment"), ("2", "2", "RANK is 2 and WORLD_SIZE 2"), ("0", "-1", "WORLD_SIZE")],
)
def test_an_environment_that_contradicts_itself_is_explained(
    rank: str, size: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(torchrun.VARIABLES, (rank, size, "127.0.0.1", "1"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(FcclipError, match=complaint):
        torchrun.place()
    monkeypatch.delenv("MASTER_PORT")
    assert torchrun.place() == Place(0, 1), "clusters set single ones for reasons of their own"
