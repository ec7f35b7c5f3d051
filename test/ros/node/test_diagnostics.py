"""Counts, rates, latencies, and what /diagnostics makes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from fcclip_ros.node import frame_statistics
from fcclip_ros.node.diagnostics import NodeState, make_status
from fcclip_ros.node.frame_statistics import Counts, LastError, Report, Statistics

STATE = NodeState(
    lifecycle="active",
    enabled=True,
    checkpoint="demo",
    device="cpu",
    backend="eager",
    backend_requested="auto",
    backend_warning="",
    image_input="/camera/image, reliable, 1 publisher",
    image_problem="",
    vocabulary_version=3,
    vocabulary_classes=20,
    distractors=7,
    encoding_classes=0,
    problem="",
    mask_problem="",
)
REPORT = Report(
    counts=Counts(received=100, labeled=60, batched=25, dropped=38, bad=1, failed=1, refused=2),
    input_rate=30.0,
    output_rate=12.5,
    latencies={"model": (0.0501, 0.0602), "total": (0.08, 0.1)},
)


def test_frames_are_counted_and_rates_look_back_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(frame_statistics.time, "monotonic", lambda: now[0])
    statistics = Statistics()
    for step in range(100):
        now[0] = 100.0 + 0.1 * step
        statistics.received()
        if step % 2:
            statistics.labeled({"model": 0.001 * step})
        else:
            statistics.dropped()
    report = statistics.report()
    assert report.counts == Counts(received=100, labeled=50, dropped=50)
    assert report.input_rate == pytest.approx(10.0, abs=0.3)
    assert report.output_rate == pytest.approx(5.0, abs=0.3)
    mean, largest = report.latencies["model"]
    assert (mean, largest) == (pytest.approx(0.050), 0.099)
    now[0] += 60.0
    assert (statistics.report().input_rate, statistics.report().output_rate) == (0.0, 0.0)


def test_a_frame_that_is_left_out_is_received_and_no_drop() -> None:
    statistics = Statistics()
    statistics.left_out()
    report = statistics.report()
    assert report.counts == Counts(received=1, left_out=1) and report.input_rate > 0
    status = make_status("n", STATE, replace(REPORT, counts=report.counts))
    assert status.level == DiagnosticStatus.OK
    assert {item.key: item.value for item in status.values}["frames left out"] == "1"


def test_errors_are_counted_by_kind_and_grow_old(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(frame_statistics.time, "monotonic", lambda: now[0])
    statistics = Statistics()
    statistics.bad("too short")
    statistics.failed("out of memory")
    statistics.refused("empty vocabulary")
    statistics.error("no checkpoint")
    report = statistics.report()
    assert (report.counts.bad, report.counts.failed, report.counts.refused) == (1, 1, 1)
    assert report.last_error == LastError("errors", "no checkpoint", 0.0)
    assert report.last_error.recent
    now[0] = 6.0
    assert not statistics.report().last_error.recent  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("state", "report", "level", "message"),
    [
        (STATE, REPORT, DiagnosticStatus.OK, "12.5 frames/s of 30.0"),
        (replace(STATE, lifecycle="inactive"), Report(Counts(), 0, 0), DiagnosticStatus.OK, "inactive"),
        (
            replace(STATE, lifecycle="unconfigured", problem="cannot configure: no file"),
            Report(Counts(), 0, 0),
            DiagnosticStatus.ERROR,
            "unconfigured: cannot configure: no file",
        ),
        (replace(STATE, enabled=False), REPORT, DiagnosticStatus.WARN, "inference is disabled (~/enable)"),
        (STATE, Report(Counts(), 0, 0), DiagnosticStatus.WARN, "no images: /camera/image, reliable, 1 publisher"),
        (
            replace(STATE, backend_warning="backend tensorrt is disabled: no memory"),
            REPORT,
            DiagnosticStatus.WARN,
            "12.5 frames/s, but backend tensorrt is disabled: no memory",
        ),
        (replace(STATE, mask_problem="it does not fit"), REPORT, DiagnosticStatus.WARN, "it does not fit"),
        (
            STATE,
            replace(REPORT, last_error=LastError("bad", "step is 3", 1.0)),
            DiagnosticStatus.WARN,
            "step is 3",
        ),
        (
            STATE,
            replace(REPORT, output_rate=0.0, failure="out of memory", last_error=LastError("failed", "x", 1.0)),
            DiagnosticStatus.ERROR,
            "out of memory",
        ),
        (
            STATE,
            replace(REPORT, output_rate=0.0, failure="out of memory", last_error=LastError("refused", "x", 90.0)),
            DiagnosticStatus.ERROR,
            "out of memory",
        ),
        (
            replace(STATE, image_problem="/image carries sensor_msgs/msg/CompressedImage"),
            Report(Counts(), 0, 0),
            DiagnosticStatus.WARN,
            "/image carries sensor_msgs/msg/CompressedImage",
        ),
        (
            STATE,
            replace(REPORT, last_error=LastError("failed", "out of memory", 30.0)),
            DiagnosticStatus.OK,
            "12.5 frames/s of 30.0",
        ),
    ],
)
def test_level_and_message(state: NodeState, report: Report, level: bytes, message: str) -> None:
    status = make_status("fcclip: segmentation", state, report)
    assert (status.level, status.message) == (level, message)


def test_everything_that_was_promised_is_among_the_values() -> None:
    report = replace(REPORT, last_error=LastError("bad", "step is 3", 7.2))
    values = {item.key: item.value for item in make_status("n", STATE, report).values}
    assert values["frames received"] == "100"
    assert values["frames labeled"] == "60"
    assert values["frames batched"] == "25"
    assert values["frames dropped"] == "38"
    assert values["frames bad"] == "1"
    assert values["output rate (Hz)"] == "12.50"
    assert values["latency model (ms)"] == "50.1 (max 60.2)"
    assert (values["device"], values["backend"], values["vocabulary version"]) == ("cpu", "eager", "3")
    assert values["backend requested"] == "auto"
    assert (values["last error"], values["last error age (s)"]) == ("step is 3", "7")
    assert 10 < float(values["memory (MB)"]) < 100_000
