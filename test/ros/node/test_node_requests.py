"""Requests that nobody waits for, that come in crowds, or that fail: answered, limited, not in the stream's way."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from fake_segmenter import FakeSegmenter, fake_loader
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from ros_harness import Peer, camera, flat_image, publish_until, rgb_message, set_parameters, status_of, wait_until
from std_srvs.srv import SetBool

from fcclip_ros import msg, srv
from fcclip_ros.action import WaitFor
from fcclip_ros.node import find, parameters, wait_for
from fcclip_ros.perception import Perception
from fcclip_ros.qos import OUTPUT, REQUESTS


class Host:
    """The node in this process, with a fake model."""

    def __init__(self, *arguments: str) -> None:
        self.models: list[FakeSegmenter] = []

        def load(*given: Any, **options: Any) -> FakeSegmenter:
            self.models.append(fake_loader()(*given, **options))
            return self.models[-1]

        words = ["-p", "vocabulary:=['cup', 'plate', 'floor']", "-p", "stuff:=['floor']"]
        self.peer = Peer(
            lambda **options: Perception(load, **options), ["--ros-args", "-p", "checkpoint:=fake", *words, *arguments]
        )
        self.node.begin()
        wait_until(lambda: self.node._lifecycle == "active")

    @property
    def node(self) -> Perception:
        """Not kept: it must be gone for its participant to end."""
        return self.peer.node  # type: ignore[return-value]

    @property
    def model(self) -> FakeSegmenter:
        return self.models[-1]

    def close(self) -> None:
        for model in self.models:
            model.words_gate.open()
        self.node.finish()
        self.peer.close()
        # Goals that never ended are coroutines that the executor still has.
        del self.peer
        gc.collect()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


def classes(*names: str) -> srv.SetVocabulary.Request:
    return srv.SetVocabulary.Request(classes=[msg.VocabularyClass(synonyms=[name]) for name in names])


def set_vocabulary(peer: Peer, *names: str) -> srv.SetVocabulary.Response:
    return peer.call(srv.SetVocabulary, "/fcclip/set_vocabulary", classes(*names))


def active_words(peer: Peer) -> dict[str, bool]:
    answer = peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary").vocabulary
    return {item.synonyms[0]: item.is_thing for item in answer.classes}


# --- parameters --------------------------------------------------------------------------------------------------


def test_setting_stuff_acts_on_the_words_that_came_by_service(host: Host, peer: Peer) -> None:
    assert set_vocabulary(peer, "forklift", "ramp").success
    (result,) = set_parameters(peer, stuff=["ramp"])
    assert result.successful
    wait_until(lambda: active_words(peer) == {"forklift": True, "ramp": False})
    set_parameters(peer, stuff=["nothing here"])
    wait_until(lambda: active_words(peer) == {"forklift": True, "ramp": True})


def test_stuff_that_changes_no_active_class_makes_no_new_version(host: Host, peer: Peer) -> None:
    version = set_vocabulary(peer, "forklift").version
    set_parameters(peer, stuff=["elsewhere"])
    assert set_vocabulary(peer, "forklift").version == version + 1


def test_an_atomic_set_that_repeats_the_vocabulary_leaves_the_words_that_came_by_service(
    host: Host, peer: Peer, capfd: pytest.CaptureFixture[str]
) -> None:
    assert set_vocabulary(peer, "forklift").success
    changes = {"vocabulary": ["cup", "plate", "floor"], "alpha": 0.1}
    request = SetParametersAtomically.Request(
        parameters=[Parameter(name, value=value).to_parameter_msg() for name, value in changes.items()]
    )
    result = peer.call(SetParametersAtomically, "/fcclip/set_parameters_atomically", request).result
    assert result.successful
    assert "the active vocabulary (version 2) stays" in capfd.readouterr().err
    assert host.model.settings.alpha == 0.1
    assert active_words(peer) == {"forklift": True}
    assert set_parameters(peer, vocabulary=["cup"])[0].successful
    wait_until(lambda: active_words(peer) == {"cup": True})


def test_stuff_reaches_a_vocabulary_that_is_still_being_read(host: Host, peer: Peer) -> None:
    host.model.words_gate.close()
    set_parameters(peer, vocabulary=["ramp", "forklift"])
    set_parameters(peer, stuff=["ramp"])
    host.model.words_gate.open()
    wait_until(lambda: active_words(peer) == {"ramp": False, "forklift": True})


def test_any_exception_of_a_change_of_parameters_is_answered_with_its_reason(
    host: Host, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise TypeError("!!bool x")

    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    monkeypatch.setattr(parameters, "check_change", fail)
    (result,) = set_parameters(peer, vocabulary="words.yaml")
    assert (result.successful, result.reason) == (False, "TypeError: !!bool x")
    values = status_of(diagnostics, lambda status, values: "!!bool x" in values["last error"])
    assert int(values["other errors"]) == 1


@pytest.mark.parametrize(
    "value", [ParameterValue(type=99), ParameterValue(type=0), ParameterValue(type=5, byte_array_value=[b"a"])]
)
def test_a_value_of_any_type_is_answered(host: Host, peer: Peer, value: ParameterValue) -> None:
    for name in ("vocabulary", "stuff", "alpha", "cameras", "nonsense"):
        request = SetParameters.Request(parameters=[ParameterMessage(name=name, value=value)])
        assert len(peer.call(SetParameters, "/fcclip/set_parameters", request).results) == 1
    assert active_words(peer)


def test_empty_lists_in_a_parameter_file_do_not_end_the_start(tmp_path: Any, peer: Peer) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("/**:\n  ros__parameters:\n    stuff: []\n    cameras: []\n    alpha: []\n    max_batch: []\n")
    host = Host("--params-file", str(file))
    try:
        assert set(active_words(peer)) == {"cup", "plate", "floor"}
        assert host.node.get_parameter("max_batch").value == 8
    finally:
        host.close()


# --- what callbacks meet -----------------------------------------------------------------------------------------


def test_a_model_that_raises_on_the_size_of_every_frame_is_an_error_in_diagnostics(host: Host, peer: Peer) -> None:
    def fail(*_: int) -> None:
        raise ZeroDivisionError("shorter_side is 0")

    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    host.model.padded_size = fail  # type: ignore[method-assign, assignment]
    publisher, message = camera(peer), rgb_message(flat_image())
    publish_until(publisher, message, lambda: host.node._cameras[0].statistics.report().counts.failed)
    status_of(
        diagnostics,
        lambda status, values: (
            status.level == b"\2"
            and status.message == "ZeroDivisionError: shorter_side is 0"
            and int(values["frames failed"]) > 0
        ),
    )


def test_a_callback_that_raises_is_counted_said_and_answered(
    host: Host, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("a fault")

    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    monkeypatch.setattr(Perception, "_vocabulary_of", fail)
    assert peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary") == srv.GetVocabulary.Response()
    monkeypatch.setattr(host.node._pipeline, "discard_frame", fail)
    answer = peer.call(SetBool, "/fcclip/enable", SetBool.Request(data=False))
    assert (answer.success, answer.message) == (False, "KeyError: 'a fault'")
    values = status_of(diagnostics, lambda status, values: int(values["other errors"]) >= 2)
    assert values["last error"] == "the service ~/enable failed: KeyError: 'a fault'"


def test_a_transition_that_raises_is_said_and_ends_unconfigured(
    host: Host, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(host.node, "callback_failed", lambda what, error: told.append(what))
    stops = iter([lambda: told.pop(7), host.node._stop_stream, host.node._stop_stream])  # the first one raises
    monkeypatch.setattr(host.node, "_stop_stream", lambda: next(stops)())
    host.node.trigger_deactivate()
    assert told == ["on_deactivate"]
    assert host.node._lifecycle == "unconfigured"
    assert host.node._pipeline is None


# --- words -------------------------------------------------------------------------------------------------------


def test_known_words_overtake_thousands_of_new_ones(host: Host, peer: Peer) -> None:
    host.model._encoding_seconds = 0.002
    many = peer.call_async(
        srv.EmbedText, "/fcclip/embed_text", srv.EmbedText.Request(names=[f"new {n}" for n in range(3000)])
    )
    wait_until(lambda: host.model.read)
    assert peer.call(srv.EmbedText, "/fcclip/embed_text", srv.EmbedText.Request(names=["cup"])).success
    assert peer.call(srv.Find, "/fcclip/find", srv.Find.Request(words=["another"])).message.startswith("no frame")
    assert sum(map(len, host.model.read)) < 3000
    host.model._encoding_seconds = 0.0
    assert many(20.0).success


def test_a_newer_vocabulary_supersedes_an_older_one_whose_caller_is_told_by_which(host: Host, peer: Peer) -> None:
    host.model.words_gate.close()
    older = peer.call_async(srv.SetVocabulary, "/fcclip/set_vocabulary", classes(*(f"old {n}" for n in range(500))))
    wait_until(lambda: host.node._pipeline.encoding_classes == 500)
    newer = peer.call_async(srv.SetVocabulary, "/fcclip/set_vocabulary", classes("new one", "new two"))
    wait_until(lambda: host.node._pipeline.encoding_classes == 2)
    host.model.words_gate.open()
    answer = newer(20.0)
    assert answer.success
    told = older(20.0)
    assert not told.success
    assert told.message == f"superseded by version {answer.version}"
    assert told.version == answer.version
    # What was being read is read to its end, and nothing more of it.
    assert sum(word.startswith("old") for words in host.model.read for word in words) <= 16


def test_cleaning_up_does_not_wait_for_thousands_of_words(host: Host, peer: Peer) -> None:
    host.model.words_gate.close()
    change = peer.call_async(srv.SetVocabulary, "/fcclip/set_vocabulary", classes(*(f"w {n}" for n in range(3000))))
    wait_until(lambda: host.node._pipeline.encoding_classes == 3000)
    model = host.model
    threading.Timer(0.3, model.words_gate.open).start()
    host.node.trigger_deactivate()
    host.node.trigger_cleanup()
    assert host.node._pipeline is None
    assert change(20.0).message == "the node is being shut down or cleaned up"
    assert sum(len(words) for words in model.read) < 100


def test_four_hundred_vocabularies_sent_without_waiting_are_all_answered(host: Host, peer: Peer) -> None:
    # With its default profile a client keeps ten answers that it has not read, and DDS drops the others.
    client = peer.node.create_client(srv.SetVocabulary, "/fcclip/set_vocabulary", qos_profile=REQUESTS)
    assert client.wait_for_service(20.0)
    answers: list[Any] = []
    for number in range(400):
        client.call_async(classes(f"word {number}")).add_done_callback(lambda future: answers.append(future.result()))
    wait_until(lambda: len(answers) == 400, 60.0)
    done = [answer for answer in answers if answer.success]
    assert done
    assert all(answer.success or answer.message.startswith("superseded by version") for answer in answers)
    assert active_words(peer) == {"word 399": True}


def test_an_image_with_words_of_its_own_uses_up_no_id_of_the_stream(host: Host, peer: Peer) -> None:
    own = [msg.VocabularyClass(synonyms=[f"own {n}"]) for n in range(300)]
    request = srv.SegmentImage.Request(image=rgb_message(flat_image()), classes=own)
    assert peer.call(srv.SegmentImage, "/fcclip/segment_image", request).success
    assert list(set_vocabulary(peer, "cup", "first new").ids) == [1, 4]


# --- those who wait ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [1e10, float("inf"), float("nan"), -1.0])
def test_a_timeout_that_no_clock_has_is_refused(host: Host, peer: Peer, timeout: float) -> None:
    request = srv.Find.Request(words=["cup"], fresh=True, timeout=timeout)
    answer = peer.call(srv.Find, "/fcclip/find", request)
    assert not answer.success
    assert answer.message.startswith("timeout is ")


def test_three_thousand_who_wait_for_a_picture_start_no_thread_each(host: Host, peer: Peer) -> None:
    # The answers of a frame come at once, more than a client keeps by default.
    client = peer.node.create_client(srv.Find, "/fcclip/find", qos_profile=REQUESTS)
    assert client.wait_for_service(20.0)
    before, answers = threading.active_count(), []
    for _ in range(300):
        client.call_async(srv.Find.Request(words=["cup"], fresh=True, timeout=600.0)).add_done_callback(
            lambda future: answers.append(future.result())
        )
    wait_until(lambda: len(answers) == 300 - find.MAX_FRESH, 30.0)
    assert threading.active_count() <= before + 1
    assert "dropped in favor of a newer one: at most 64 requests for a fresh frame" in answers[0].message
    publisher = camera(peer)
    publish_until(publisher, rgb_message(flat_image()), lambda: len(answers) == 300)
    assert sum(answer.success for answer in answers) == find.MAX_FRESH


def test_the_oldest_goal_gives_way_to_the_seventeenth(host: Host, peer: Peer) -> None:
    client = ActionClient(peer.node, WaitFor, "/fcclip/wait_for")
    assert client.wait_for_server(20.0)

    def send() -> Any:
        sent = client.send_goal_async(WaitFor.Goal(words=["cup"], minimum_score=0.99))
        wait_until(sent.done)
        return sent.result().get_result_async()

    results = [send() for _ in range(wait_for.MAX_GOALS + 1)]
    wait_until(results[0].done)
    assert results[0].result().result.message == "dropped in favor of a newer one: at most 16 goals may be pending"
    assert not any(result.done() for result in results[1:])


def test_goals_of_a_client_that_is_gone_end(host: Host, peer: Peer) -> None:
    gone = Peer()
    client = ActionClient(gone.node, WaitFor, "/fcclip/wait_for")
    assert client.wait_for_server(20.0)
    wait_until(client.send_goal_async(WaitFor.Goal(words=["cup"], minimum_score=0.99)).done)
    heard = host.node._wait_for._goals
    wait_until(lambda: heard and all(goal.subscribers for goal in heard.values()))
    began = next(iter(heard.values())).accepted
    wait_until(lambda: time.monotonic() > began + wait_for._DISCOVERY_TIME + wait_for._CLIENT_CHECK_PERIOD)
    gone.close()
    # Another client, which was not there when the goal began, does not keep it alive.
    another = ActionClient(peer.node, WaitFor, "/fcclip/wait_for")
    assert another.wait_for_server(20.0)
    wait_until(lambda: not heard, 30.0)


def test_goals_that_look_for_the_same_share_one_labeling(host: Host, peer: Peer) -> None:
    client = ActionClient(peer.node, WaitFor, "/fcclip/wait_for")
    assert client.wait_for_server(20.0)
    for _ in range(10):
        wait_until(client.send_goal_async(WaitFor.Goal(words=["spoon"], minimum_score=0.99)).done)
    wait_until(lambda: len(host.node._wait_for._goals) == 10)
    labeled: list[int] = []
    decode = host.model.decode
    host.model.decode = lambda *given: (labeled.append(1), decode(*given))[1]  # type: ignore[method-assign]
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    publish_until(camera(peer), rgb_message(flat_image()), lambda: not segments.empty())
    counts = host.node._cameras[0].statistics.report
    wait_until(lambda: counts().counts.labeled + counts().counts.dropped == counts().counts.received)
    # Once for the stream, once for all goals.
    assert len(labeled) == 2 * counts().counts.labeled


def test_too_many_words_are_refused(host: Host, peer: Peer) -> None:
    many = [f"word {n}" for n in range(find.MAX_NAMES + 1)]
    answer = peer.call(srv.EmbedText, "/fcclip/embed_text", srv.EmbedText.Request(names=many))
    assert answer.message.startswith("there are 10,001 names to embed; send at most 10,000")
    answer = peer.call(srv.Find, "/fcclip/find", srv.Find.Request(words=[",".join(many[:1001])]))
    assert answer.message.startswith("words and distractors have 1,001 words; expected at most 1,000")
