"""The mailbox and the worker: newest frame, tasks first, nobody waits, nothing is lost silently."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest
from ros_harness import wait_until

from fcclip_ros.mailbox import Mailbox, Task
from fcclip_ros.worker import Worker


def test_only_the_newest_frame_is_taken_and_the_replaced_one_is_returned() -> None:
    mailbox: Mailbox[str] = Mailbox()
    assert mailbox.put("first") is None
    assert mailbox.put("second") == "first"
    assert mailbox.take() == "second"
    assert mailbox.put("third") is None


def test_tasks_go_before_the_frame_in_their_order() -> None:
    mailbox: Mailbox[str] = Mailbox()
    mailbox.put("frame")
    tasks = [Task(int), Task(str)]
    for task in tasks:
        mailbox.put_task(task)
    assert [mailbox.take(), mailbox.take(), mailbox.take()] == [*tasks, "frame"]


def test_take_waits_for_a_frame() -> None:
    mailbox: Mailbox[str] = Mailbox()
    threading.Timer(0.05, mailbox.put, ["late"]).start()
    assert mailbox.take() == "late"


def test_a_closed_mailbox_cancels_tasks_gives_frames_back_and_wakes_the_taker() -> None:
    mailbox: Mailbox[str] = Mailbox()
    before, after = Task(int), Task(int)
    mailbox.put("frame")
    mailbox.put_task(before)
    assert mailbox.close() == "frame"
    mailbox.put_task(after)
    assert before.future.cancelled() and after.future.cancelled()
    assert mailbox.put("too late") == "too late"
    assert mailbox.take() is None


def test_a_frame_can_be_taken_back() -> None:
    mailbox: Mailbox[str] = Mailbox()
    mailbox.put("frame")
    assert mailbox.discard_frame() == "frame"
    assert mailbox.discard_frame() is None


def test_a_busy_worker_skips_to_the_newest_frame_after_the_tasks() -> None:
    done: list[object] = []
    begun, gate = threading.Event(), threading.Event()

    def handle(frame: object) -> None:
        begun.set()
        gate.wait(5)
        done.append(frame)

    worker: Worker[int] = Worker("test", handle)
    worker.put(0)
    assert begun.wait(5)
    replaced = [worker.put(number) for number in range(1, 5)]
    worker.submit(done.append, "task")
    gate.set()
    wait_until(lambda: len(done) == 3)
    assert worker.stop(5)
    assert done == [0, "task", 4]
    assert replaced == [None, 1, 2, 3]


def test_an_error_reaches_the_task_and_spares_the_worker() -> None:
    worker: Worker[int] = Worker("test")
    with pytest.raises(ZeroDivisionError):
        worker.submit(lambda: 1 // 0).result(5)
    assert worker.submit(lambda: 7).result(5) == 7
    assert worker.stop(5)


def test_stopping_waits_for_the_present_task_and_cancels_the_others() -> None:
    worker: Worker[int] = Worker("test")
    gate = threading.Event()
    present, waiting = worker.submit(gate.wait, 5), worker.submit(int)
    wait_until(present.running)
    assert not worker.stop(0.05)
    with pytest.raises(CancelledError):
        waiting.result(5)
    gate.set()
    assert worker.stop(5)
    assert present.result(0) is True
