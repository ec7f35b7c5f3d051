"""A node whose backend fails, in a process of its own: every frame is labeled, and diagnostics say what runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ros_harness import Peer, Process, camera, drain, rgb_message, status_of, wait_until
from sensor_msgs.msg import Image

from checkout import ROOT
from fcclip_core import InferenceSettings, Segmenter, Vocabulary
from fcclip_ros.qos import OUTPUT

pytest.importorskip("openvino")
pytest.importorskip("onnx")

SLOW = pytest.mark.slow
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
WORDS = ["cup", "floor", "wall"]
SETTINGS = {"shorter_side": 64, "object_mask_threshold": 0.0, "overlap_threshold": 0.0}
FRAMES = 8
_PROGRAM = str(ROOT / "test" / "ros" / "failing_node.py")


@pytest.fixture(scope="module")
def full_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a node of yesterday left behind: graph, eager's answer, text rows."""
    cache = tmp_path_factory.mktemp("full")
    segmenter = Segmenter.from_checkpoint(
        "recipe:tiny",
        device="cpu",
        backend="openvino",
        precision="fp32",
        settings=InferenceSettings(**SETTINGS),  # type: ignore[arg-type]
        cache_dir=cache,
    )
    segmenter.set_vocabulary(Vocabulary.from_names(WORDS))
    segmenter(PICTURE)
    return cache


@pytest.fixture(scope="module")
def expected(full_cache: Path) -> np.ndarray:
    """Eager's segments."""
    segmenter = Segmenter.from_checkpoint(
        "recipe:tiny",
        device="cpu",
        backend="eager",
        settings=InferenceSettings(**SETTINGS),  # type: ignore[arg-type]
        cache_dir=full_cache,
    )
    segmenter.set_vocabulary(Vocabulary.from_names(WORDS))
    return segmenter(PICTURE).segment_map


@pytest.fixture
def cache(full_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the node that is started next."""
    copy = Path(shutil.copytree(full_cache, tmp_path / "cache"))
    monkeypatch.setenv("FCCLIP_CACHE_DIR", str(copy))
    return copy


class Stream:
    """A node that was told to use OpenVINO, and frames that are sent one by one."""

    def __init__(self, peer: Peer, start: Callable[..., Process], fault: str) -> None:
        # Before the node starts, so that they know each other when the first frame comes.
        self._panoptic = peer.listen(Image, "/fcclip/panoptic", OUTPUT)
        self._diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
        publisher = camera(peer)
        settings = [part for name, value in SETTINGS.items() for part in ("-p", f"{name}:={value}")]
        backend = ["-p", "backend:=openvino", "-p", "precision:=fp32", "-p", "device:=cpu"]
        rest = ["-p", f"vocabulary:={WORDS}", "-p", "image_reliability:=reliable"]
        self.node = start(_PROGRAM, fault, "--ros-args", "-p", "checkpoint:=recipe:tiny", *backend, *settings, *rest)
        self.node.wait_for("reading images from", 120.0)
        self._publisher = publisher
        wait_until(lambda: publisher.get_subscription_count() == 1, 30.0)
        wait_until(lambda: not self._diagnostics.empty(), 30.0)

    def send(self, count: int) -> None:
        """Sends frames, each as soon as the one before it is labeled."""
        for number in range(1, count + 1):
            self._publisher.publish(rgb_message(PICTURE, stamp=Time(sec=number)))
            if number < count:
                self._panoptic.get(timeout=60.0)

    def run(self, expected: np.ndarray) -> tuple[DiagnosticStatus, dict[str, str]]:
        """Sends each frame as soon as the one before it is labeled, and looks at all of them.

        Returns:
            The status after the last frame, and its values.
        """
        for number in range(1, FRAMES + 1):
            self._publisher.publish(rgb_message(PICTURE, stamp=Time(sec=number)))
            _, message = self._panoptic.get(timeout=60.0)
            assert message.header.stamp.sec == number, "every frame, in order"
            found = np.frombuffer(message.data, np.uint16).reshape(message.height, message.width)
            # Backends differ by rounding, and seeded masks are full of ties.
            assert (found == expected).mean() > 0.99, number
        assert self._panoptic.empty()
        drain(self._diagnostics)
        kept: list[DiagnosticStatus] = []

        def all_counted(status: DiagnosticStatus, values: dict[str, str]) -> bool:
            kept.append(status)
            return values["frames labeled"] == str(FRAMES)

        values = status_of(self._diagnostics, all_counted)
        for kind in ("dropped", "bad", "failed"):
            assert values[f"frames {kind}"] == "0", kind
        assert values["frames received"] == str(FRAMES)
        assert values["backend requested"] == "openvino"
        return kept[-1], values


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param("memory", "[CPU] out of memory", id="memory"),
        pytest.param("later", "RuntimeError: Exception from infer_request.cpp:223:", id="later", marks=SLOW),
        pytest.param("missing", "OpenVINO cannot be imported", id="missing", marks=SLOW),
        pytest.param("wrong", "eager PyTorch on the test image", id="wrong", marks=SLOW),
    ],
)
def test_a_backend_that_fails_costs_no_frame_and_is_said(
    start_process: Callable[..., Process],
    peer: Peer,
    cache: Path,
    expected: np.ndarray,
    fault: str,
    reason: str,
) -> None:
    if fault == "wrong":
        for path in (cache / "built").glob("*.graph"):
            path.unlink()
    stream = Stream(peer, start_process, fault)
    status, values = stream.run(expected)
    assert values["backend"].startswith("PyTorch") and "oneDNN" in values["backend"]
    assert "; not openvino: " in values["backend"] and reason in values["backend"]
    assert status.level == DiagnosticStatus.WARN
    assert "but backend openvino is disabled: " in status.message and reason in status.message
    assert stream.node.output.count("backend openvino failed, falling back to the next one") == 1


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(
            lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "truncated", id="truncated"
        ),
        pytest.param(
            lambda path: path.write_bytes(path.read_bytes().replace(b'"code": "', b'"code": "Z', 1)),
            "header is damaged",
            id="another byte",
            marks=SLOW,
        ),
    ],
)
def test_a_graph_that_is_not_to_be_used_is_built_again_and_nothing_is_wrong(
    start_process: Callable[..., Process],
    peer: Peer,
    cache: Path,
    expected: np.ndarray,
    damage: Callable[[Path], Any],
    says: str,
) -> None:
    (path,) = (cache / "built").glob("*.graph")
    damage(path)
    stream = Stream(peer, start_process, "none")
    status, values = stream.run(expected)
    assert values["backend"].startswith("OpenVINO") and "; not " not in values["backend"]
    assert status.level == DiagnosticStatus.OK
    assert says in stream.node.output and "is built again" in stream.node.output


def test_a_device_that_is_lost_ends_the_process(start_process: Callable[..., Process], peer: Peer, cache: Path) -> None:
    stream = Stream(peer, start_process, "lost")
    stream.send(3)
    assert stream.node.wait(30.0) == 1
    assert "shutting down: cpu is lost to this process, which must be started again: CUDA error" in stream.node.output
    assert "backend openvino failed, falling back" not in stream.node.output


@SLOW
def test_a_failure_that_passes_leaves_no_trace_but_in_the_log(
    start_process: Callable[..., Process], peer: Peer, cache: Path, expected: np.ndarray
) -> None:
    stream = Stream(peer, start_process, "once")
    status, values = stream.run(expected)
    assert values["backend"].startswith("OpenVINO") and "; not " not in values["backend"]
    assert status.level == DiagnosticStatus.OK
    assert stream.node.output.count("backend openvino failed, retrying the image once") == 1


@SLOW
def test_a_cache_that_cannot_be_written(
    start_process: Callable[..., Process],
    peer: Peer,
    tmp_path: Path,
    expected: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As root, a file in the way stands for a folder without write permission."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FCCLIP_CACHE_DIR", str(tmp_path / "file" / "cache"))
    stream = Stream(peer, start_process, "none")
    status, values = stream.run(expected)
    assert values["backend"].startswith("OpenVINO")
    assert status.level == DiagnosticStatus.OK
    assert "set FCCLIP_CACHE_DIR to a folder that can be written" in stream.node.output
