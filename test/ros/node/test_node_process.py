"""Nodes in processes of their own: latency, transports, failing configurations, signals."""

from __future__ import annotations

import io
import itertools
import signal
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from fake_segmenter import FATAL
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from ros_harness import (
    RELIABLE,
    WORDS,
    Camera,
    Peer,
    Process,
    camera,
    chosen_reliabilities,
    drain,
    fake_node,
    flat_image,
    publish_until,
    rgb_message,
    set_parameters,
    state,
    status_of,
    transition,
    wait_until,
)
from sensor_msgs.msg import CompressedImage, Image

from fcclip_core.weights.checkpoints import load_checkpoint, save_checkpoint
from fcclip_ros import msg, srv
from fcclip_ros.qos import OUTPUT


def test_services_answer_and_the_newest_frame_is_labeled_while_the_model_works(
    start_process: Callable[..., Process], peer: Peer
) -> None:
    """The model takes five periods of the camera; how long answers and frames take is for benchmarks/node/node.py."""
    node = start_process(*fake_node(0.15))
    node.wait_for("reading images from")
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    panoptic = peer.listen(Image, "/fcclip/panoptic", OUTPUT)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    photo = np.random.default_rng(0).integers(1, 256, (480, 640, 3), np.uint8)
    answered = 0
    with Camera(peer, 30.0, photo):
        wait_until(lambda: not segments.empty(), 20)
        drain(segments)
        while segments.qsize() < 10:
            for kind, name in ((srv.GetVocabulary, "get_vocabulary"), (GetState, "get_state")):
                peer.call(kind, f"/fcclip/{name}")
            peer.call(GetParameters, "/fcclip/get_parameters", GetParameters.Request(names=["alpha"]))
            answered += 3
        status_of(diagnostics, lambda s, v: int(v["frames dropped"]) > int(v["frames labeled"]) > 10)
    stamps = [(m.header.stamp.sec, m.header.stamp.nanosec) for _, m in drain(segments)]
    assert stamps == sorted(set(stamps))
    # Behind the model no more than one would be answered a frame.
    assert answered > 20
    assert not panoptic.empty()


def test_a_node_without_any_parameter_becomes_active_with_the_demo(
    start_process: Callable[..., Process], peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    node = start_process("-m", "fcclip_ros.perception")
    node.wait_for("reading images from", 60)
    assert state(peer) == "active"
    assert "the bundled demo is used" in node.output
    assert "fcclip weights install convnext_large" in node.output
    vocabulary = peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary").vocabulary
    assert len(vocabulary.classes) == 80
    assert "red ball" in {item.synonyms[0] for item in vocabulary.classes}


def test_compressed_images_names_and_namespaces(start_process: Callable[..., Process], peer: Peer) -> None:
    node = start_process(
        *fake_node(0.002, "-p", "image_transport:=compressed", "-r", "__ns:=/robot", "-r", "image:=/front/image_raw")
    )
    node.wait_for("reading images from /front/image_raw/compressed")
    segments = peer.listen(msg.SegmentArray, "/robot/fcclip/segments", OUTPUT)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    publisher = camera(peer, "/front/image_raw/compressed", kind=CompressedImage)
    wait_until(lambda: chosen_reliabilities(peer, "/front/image_raw/compressed") == {RELIABLE})
    buffer = io.BytesIO()
    PIL.Image.fromarray(flat_image(20, 30)).save(buffer, "jpeg")
    whole = CompressedImage(format="rgb8; jpeg compressed bgr8", data=array("B", buffer.getvalue()))
    whole.header.frame_id = "front"
    publish_until(publisher, whole, lambda: not segments.empty())
    message = segments.get()[1]
    assert (message.height, message.width, message.header.frame_id) == (20, 30, "front")
    cut = CompressedImage(format="jpeg", data=whole.data[: len(whole.data) // 2])
    publisher.publish(cut)
    status_of(diagnostics, lambda s, v: "cannot be decoded, it is probably cut short" in v["last error"])
    drain(segments)
    publish_until(publisher, whole, lambda: not segments.empty())


def test_a_missing_and_a_corrupt_checkpoint_leave_the_node_unconfigured_until_it_can_be(
    start_process: Callable[..., Process], peer: Peer, tmp_path: Path
) -> None:
    missing = tmp_path / "nowhere.safetensors"
    command = ("-m", "fcclip_ros.perception", "--ros-args", "-p", f"checkpoint:={missing}", *WORDS)
    node = start_process(*command, "-p", "shorter_side:=64")
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    complaint = "unconfigured: cannot configure: "
    node.wait_for("cannot configure")
    assert str(missing) in node.output
    status_of(
        diagnostics, lambda s, v: s.message.startswith(complaint) and str(missing) in s.message and s.level == b"\2"
    )
    assert state(peer) == "unconfigured"
    words = srv.SetVocabulary.Request(classes=[msg.VocabularyClass(synonyms=["cup"])])
    answer = peer.call(srv.SetVocabulary, "/fcclip/set_vocabulary", words)
    assert not answer.success and "the node is not configured" in answer.message

    corrupt = tmp_path / "corrupt.safetensors"
    corrupt.write_bytes(b"\x10\0\0\0\0\0\0\0{this is no header")
    assert set_parameters(peer, checkpoint=str(corrupt))[0].successful
    assert not transition(peer, "configure")
    status_of(diagnostics, lambda s, v: s.message.startswith(complaint) and str(corrupt) in s.message)
    assert state(peer) == "unconfigured"

    assert set_parameters(peer, checkpoint="recipe:tiny", vocabulary=["a", "b"])[0].successful
    assert transition(peer, "configure")
    assert state(peer) == "inactive"
    assert transition(peer, "activate")
    status_of(diagnostics, lambda s, v: v["state"] == "active" and "cannot configure" not in s.message)
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    publish_until(camera(peer), rgb_message(flat_image()), lambda: not segments.empty())


def test_an_installed_model_goes_by_its_name_and_another_says_how_to_install_it(
    start_process: Callable[..., Process], peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    models = tmp_path / "fcclip_ros" / "models"
    models.mkdir(parents=True)
    save_checkpoint(models / "rn50.safetensors", load_checkpoint("recipe:tiny"))
    node = start_process("-m", "fcclip_ros.perception", "--ros-args", "-p", "checkpoint:=rn101", *WORDS)
    node.wait_for("cannot configure: rn101 is not installed on this machine; run: fcclip weights install rn101")
    assert set_parameters(peer, checkpoint="rn50", shorter_side=64)[0].successful
    assert transition(peer, "configure")


def test_without_autostart_the_node_waits_and_a_bad_vocabulary_keeps_it_unconfigured(
    start_process: Callable[..., Process], peer: Peer
) -> None:
    words = "vocabulary:=/nowhere/words.yaml"
    node = start_process(*fake_node(0.0, "-p", "autostart:=false", "-p", words, "-p", "aplha:=0.5"))
    node.wait_for("there is no parameter aplha, its value is ignored; did you mean alpha?")
    assert state(peer) == "unconfigured"
    assert not transition(peer, "configure")
    assert set_parameters(peer, vocabulary="pascal_voc_20")[0].successful
    assert transition(peer, "configure")
    assert len(peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary").vocabulary.classes) == 20
    assert state(peer) == "inactive"


def test_a_wrong_parameter_at_start_ends_the_process_with_a_reason(start_process: Callable[..., Process]) -> None:
    node = start_process(*fake_node(0.0, "-p", "alpha:=2.0"))
    assert node.wait() == 1
    assert "cannot start: " in node.output
    assert "alpha out of range Min: 0.0, Max: 1.0, value: 2.0" in node.output
    assert "Traceback" not in node.output


@pytest.mark.parametrize("met_by", ["frame", "service"])
def test_a_node_that_lost_its_gpu_says_so_and_ends_for_somebody_to_start_it_again(
    start_process: Callable[..., Process], peer: Peer, met_by: str
) -> None:
    node = start_process(*fake_node(0.0))
    node.wait_for("reading images from")
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    wait_until(lambda: not diagnostics.empty())
    fatal = rgb_message(flat_image(value=FATAL))
    if met_by == "frame":
        publisher = camera(peer)
        # The node has followed the publisher's reliability then: the one frame does not go to what it gives up.
        wait_until(lambda: chosen_reliabilities(peer, "/image") == {RELIABLE})
        publisher.publish(fatal)
    else:
        answer = peer.call(srv.SegmentImage, "/fcclip/segment_image", srv.SegmentImage.Request(image=fatal))
        assert not answer.success and answer.message == "cuda is lost to this process"
    status_of(diagnostics, lambda s, v: s.level == b"\2" and "cuda is lost to this process" in s.message)
    assert node.wait() == 1
    assert node.output.count("[FATAL]") == 1 and "shutting down: cuda is lost to this process" in node.output
    assert "Traceback" not in node.output


@pytest.mark.parametrize(("number", "moment"), [(signal.SIGTERM, "streaming"), (signal.SIGINT, "encoding")])
def test_signals_end_the_node_cleanly(
    start_process: Callable[..., Process], peer: Peer, number: signal.Signals, moment: str
) -> None:
    node = start_process(*fake_node(0.05, encoding=0.0 if moment == "streaming" else 30.0))
    if moment == "streaming":
        segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
        publish_until(camera(peer), rgb_message(flat_image()), lambda: not segments.empty())
    else:
        node.wait_for("loaded fake", 60.0)
    assert node.end(number) == 0
    assert "Traceback" not in node.output
    assert "error" not in node.output.lower()


@pytest.mark.parametrize("module", ["perception", "image_source", "sim_camera"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_libraries_are_imported_ends_a_node_without_a_traceback(
    start_process: Callable[..., Process], module: str, number: signal.Signals
) -> None:
    # The first module that the node's own asks for says that it is being imported.
    slow = "import sys, time; print('importing', flush=True); time.sleep(30)"
    hook = (
        "import sys, runpy\n"
        f"sys.argv, sys.orig_argv = ['-m'], ['python', '-m', 'fcclip_ros.{module}']\n"
        "import fcclip_ros\n"
        f"{slow}"
    )
    node = start_process("-c", hook)
    node.wait_for("importing")
    assert node.end(number) == 0
    assert "Traceback" not in node.output


def test_a_second_signal_while_the_node_ends_changes_nothing(start_process: Callable[..., Process], peer: Peer) -> None:
    node = start_process(*fake_node(0.05, encoding=30.0))
    node.wait_for("loaded fake", 60.0)
    # Many, since the kernel gives some to other threads than the main one, and others come while that holds locks.
    for number in itertools.islice(itertools.cycle((signal.SIGINT, signal.SIGTERM)), 2000):
        node._process.send_signal(number)
    assert node.wait() == 0
    assert "Traceback" not in node.output


def test_a_node_whose_thread_never_returns_ends_all_the_same(start_process: Callable[..., Process], peer: Peer) -> None:
    node = start_process(*fake_node(600.0))
    node.wait_for("reading images from")
    publisher, message = camera(peer), rgb_message(flat_image())
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    publish_until(publisher, message, lambda: not diagnostics.empty())
    assert node.end(signal.SIGTERM) == 0


def test_no_home_folder_means_no_log_files_and_a_node_that_works(
    start_process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "ROS_LOG_DIR", "ROS_HOME"):
        monkeypatch.delenv(name, raising=False)
    node = start_process(*fake_node(0.01))
    node.wait_for("reading images from")
    assert "log files are disabled: HOME is not set; set ROS_LOG_DIR" in node.output
