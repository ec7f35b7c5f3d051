"""The mailbox and the worker: newest frames, tasks first, streams take turns, nothing is lost silently."""

from __future__ import annotations

import contextlib
import threading
import weakref
from concurrent.futures import CancelledError

import pytest
from ros_harness import wait_until

from fcclip_core.vocabulary.query import Query
from fcclip_ros.compat import result_of
from fcclip_ros.node.mailbox import Mailbox, Task
from fcclip_ros.node.search import PendingQuery
from fcclip_ros.node.worker import Worker


def test_only_the_newest_frame_is_taken_and_the_replaced_one_is_returned() -> None:
    mailbox: Mailbox[str] = Mailbox()
    assert mailbox.replace("front", "first") is None
    assert mailbox.replace("front", "second") == "first"
    assert mailbox.take() == ["second"]
    assert mailbox.replace("front", "third") is None


def test_each_stream_has_its_own_newest_frame() -> None:
    mailbox: Mailbox[str] = Mailbox()
    mailbox.replace("front", "front 1")
    assert mailbox.replace("left", "left 1") is None
    assert mailbox.replace("front", "front 2") == "front 1"
    assert mailbox.take(8) == ["front 2", "left 1"]


def test_the_stream_that_was_served_longest_ago_comes_first() -> None:
    """Also against a stream whose frame waits longer because it comes seldom."""
    mailbox: Mailbox[str] = Mailbox()
    order = []
    mailbox.replace("slow", "slow")
    for _ in range(3):
        for stream in ("fast", "faster"):
            mailbox.replace(stream, stream)
        mailbox.replace("slow", "slow")
        order += mailbox.take()
    assert order == ["slow", "fast", "faster"]
    mailbox.replace("late", "late")
    assert mailbox.take(2) == ["late", "slow"]


def test_frames_that_do_not_fit_the_first_one_stay_and_can_still_be_replaced() -> None:
    mailbox: Mailbox[str] = Mailbox()
    for stream, frame in (("a", "large 1"), ("b", "small 1"), ("c", "large 2"), ("d", "large 3")):
        mailbox.replace(stream, frame)

    def fit(one: str, other: str) -> bool:
        return one.split()[0] == other.split()[0]

    assert mailbox.take(2, fit) == ["large 1", "large 2"]
    assert mailbox.replace("b", "small 2") == "small 1"
    assert mailbox.take(2, fit) == ["small 2"]
    assert mailbox.take(2, fit) == ["large 3"]


def test_tasks_go_before_the_frame_in_their_order() -> None:
    mailbox: Mailbox[str] = Mailbox()
    mailbox.replace("front", "frame")
    tasks = [Task(int), Task(str)]
    for task in tasks:
        mailbox.add_task(task)
    assert [mailbox.take(), mailbox.take(), mailbox.take()] == [*tasks, ["frame"]]


def test_take_waits_for_a_frame() -> None:
    mailbox: Mailbox[str] = Mailbox()
    threading.Timer(0.05, mailbox.replace, ["front", "late"]).start()
    assert mailbox.take() == ["late"]


def test_a_closed_mailbox_cancels_tasks_gives_frames_back_and_wakes_the_taker() -> None:
    mailbox: Mailbox[str] = Mailbox()
    before, after = Task(int), Task(int)
    mailbox.replace("front", "frame")
    mailbox.add_task(before)
    assert mailbox.close() == ["frame"]
    mailbox.add_task(after)
    assert before.future.cancelled() and after.future.cancelled()
    assert mailbox.replace("front", "too late") == "too late"
    assert mailbox.take() == []


def test_a_frame_can_be_taken_back() -> None:
    mailbox: Mailbox[str] = Mailbox()
    mailbox.replace("front", "frame")
    mailbox.replace("left", "other")
    assert mailbox.discard("front") == "frame"
    assert mailbox.discard("front") is None
    assert mailbox.take(8) == ["other"]


def test_a_busy_worker_skips_to_the_newest_frame_after_the_tasks() -> None:
    done: list[object] = []
    begun, gate = threading.Event(), threading.Event()

    def handle(frames: list[int]) -> None:
        begun.set()
        gate.wait(5)
        done.extend(frames)

    worker: Worker[int] = Worker("test", handle)
    worker.replace("camera", 0)
    assert begun.wait(5)
    replaced = [worker.replace("camera", number) for number in range(1, 5)]
    worker.submit(done.append, "task")
    gate.set()
    wait_until(lambda: len(done) == 3)
    assert worker.stop(5)
    assert done == [0, "task", 4]
    assert replaced == [None, 1, 2, 3]


def test_a_worker_gets_at_once_what_came_while_it_was_busy_up_to_its_limit() -> None:
    done: list[list[int]] = []
    begun, gate = threading.Event(), threading.Event()

    def handle(frames: list[int]) -> None:
        begun.set()
        gate.wait(5)
        done.append(frames)

    worker: Worker[int] = Worker("test", handle, limit=2)
    worker.replace(0, 0)
    assert begun.wait(5)
    for stream in (1, 2, 3):
        worker.replace(stream, stream)
    gate.set()
    wait_until(lambda: len(done) == 3)
    assert worker.stop(5)
    assert done == [[0], [1, 2], [3]]


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


def test_what_a_failed_task_worked_on_dies_with_its_answer(no_collector: None) -> None:
    class Frame:
        pass

    def fail(frame: Frame) -> None:
        raise RuntimeError("out of memory")

    frame = Frame()
    seen = weakref.ref(frame)
    task = Task(fail, (frame,))
    task.run()
    answer = result_of(task.future, None)
    del frame, task
    with contextlib.suppress(RuntimeError):
        answer.send(None)  # as the executor does with a service's callback
    del answer
    assert seen() is None


def test_the_frame_on_which_a_search_failed_dies_with_the_answer(no_collector: None) -> None:
    class Frame:
        pass

    frame = Frame()
    seen = weakref.ref(frame)
    watch = PendingQuery(Query.of(["cup"]), lambda *_: None)
    watch.process(frame, object())  # type: ignore[arg-type]
    assert watch.future.exception(0) is not None
    del frame, watch
    assert seen() is None


def test_a_frame_goes_between_tasks_however_many_there_are() -> None:
    mailbox: Mailbox[str] = Mailbox()
    for _ in range(30):
        mailbox.add_task(Task(lambda: None))
    mailbox.replace("camera", "frame")
    taken = [mailbox.take() for _ in range(12)]
    assert taken.index(["frame"]) == 8
