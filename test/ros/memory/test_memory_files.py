"""The memory's file with real processes: yesterday's, a corrupt one, another process's, a disk that is full."""

from __future__ import annotations

import queue
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from memory_world import Robot, serve_words
from ros_harness import Peer, Process, drain, wait_until
from std_srvs.srv import Trigger
from test_object_memory_node import COMMAND, NODE, READY, THINGS, listed, recall, see_until

from fcclip_core.memory.object_memory import ObjectMemory
from fcclip_ros import msg, srv
from fcclip_ros.qos import LATCHED

Start = Callable[..., Process]


def started(start_process: Start, file: Path, *texts: str) -> Process:
    process = start_process(*COMMAND, "-p", f"file:={file}")
    for text in (*texts, *READY):
        process.wait_for(text)
    return process


def said(diagnostics: queue.Queue) -> list[str]:
    return [status.message for _, message in drain(diagnostics) for status in message.status]


def test_after_a_restart_the_objects_of_yesterday_are_there(start_process: Start, peer: Peer, tmp_path: Path) -> None:
    file, objects = tmp_path / "home.db", listed(peer)
    first = started(start_process, file, "0 objects are remembered in")
    robot = Robot(peer)
    see_until(robot, lambda: len(objects()) == 2)
    saved = peer.call(Trigger, f"{NODE}/save")
    assert saved.success and "objects are on the disk" in saved.message
    ids = {name: item.id for name, item in objects().items()}
    assert first.end() == 0
    second = started(start_process, file, "2 objects are remembered in")
    messages = peer.listen(msg.RememberedObjectArray, f"{NODE}/objects", LATCHED)
    serve_words(peer)
    assert {item.name: item.id for item in messages.get(timeout=20)[1].objects} == ids, "latched, before any frame"
    assert recall(peer, "red mug").answers[0].object.id == ids["mug"]
    see_until(robot, lambda: len(objects()) == 2 and objects()["mug"].looks > 10)
    assert {name: item.id for name, item in objects().items()} == ids, "seen again, they are the same"
    rival = start_process(*COMMAND, "-r", "__node:=rival", "-p", f"file:={file}")
    rival.wait_for("is in use by another process; stop that one")
    added = peer.call(srv.LoadMemory, f"{NODE}/load", srv.LoadMemory.Request(file=str(tmp_path / "none.db"), add=True))
    assert not added.success and "there is no memory file" in added.message
    same = peer.call(srv.LoadMemory, f"{NODE}/load", srv.LoadMemory.Request(file=str(file)))
    assert not same.success and "is the file that is open already" in same.message
    other = peer.call(srv.LoadMemory, f"{NODE}/load", srv.LoadMemory.Request(file=str(tmp_path / "office.db")))
    assert (other.success, other.objects) == (True, 0)
    back = peer.call(srv.LoadMemory, f"{NODE}/load", srv.LoadMemory.Request(file=str(file), add=True))
    assert back.success and back.objects == 2
    assert second.end() == 0
    with ObjectMemory(path=file, read_only=True) as kept:
        assert {item.name: item.id for item in kept.objects()} == ids


def test_a_corrupt_file_is_moved_aside_and_said(start_process: Start, peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "home.db"
    with ObjectMemory(path=file):
        pass
    damaged = bytearray(file.read_bytes())
    damaged[100:] = b"\xa5" * (len(damaged) - 100)
    file.write_bytes(damaged)
    process = started(start_process, file, "is corrupt", "and the memory starts empty", "0 objects are remembered in")
    assert [path.read_bytes()[100:200] for path in tmp_path.glob("home.db*") if "corrupt" in path.name] == [
        b"\xa5" * 100
    ]
    robot, objects = Robot(peer), listed(peer)
    see_until(robot, lambda: len(objects()) == 2)
    assert process.end() == 0


def test_a_full_disk_is_said_and_the_stream_goes_on(start_process: Start, peer: Peer, tmp_path: Path) -> None:
    process = started(start_process, tmp_path / "home.db")
    robot, objects = Robot(peer), listed(peer)
    see_until(robot, lambda: len(objects()) == 1, {"plate": THINGS["plate"]})
    assert peer.call(Trigger, f"{NODE}/save").success
    pid = process.pid
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    # No file may grow any more, as on a disk that is full; nor may the log.
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    see_until(robot, lambda: len(objects()) == 2)
    answer = peer.call(Trigger, f"{NODE}/save")
    assert not answer.success and "could not be saved" in answer.message and "kept in memory" in answer.message
    wait_until(lambda: any("the memory is not saved: " in text for text in said(diagnostics)))
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_until(lambda: peer.call(Trigger, f"{NODE}/save").success)
    assert process.end() == 0
    with ObjectMemory(path=tmp_path / "home.db", read_only=True) as kept:
        assert {item.name for item in kept.objects()} == set(THINGS)


@pytest.mark.parametrize("folder", ["missing/home.db"])
def test_a_file_that_cannot_be_opened_leaves_the_node_unconfigured(
    start_process: Start, tmp_path: Path, folder: str
) -> None:
    process = start_process(*COMMAND, "-p", f"file:={tmp_path / folder}")
    process.wait_for("cannot configure: cannot open the memory file")
    process.wait_for("fix this, then run: ros2 lifecycle set /object_memory configure")
    assert process.end() == 0
