"""What cannot be seen from another process."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_segmenter import FakeSegmenter, fake_loader
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter
from ros_harness import Peer, state, transition, wait_until
from std_msgs.msg import Header

from fcclip_ros import srv
from fcclip_ros.node import outputs, rate_limit
from fcclip_ros.perception import Perception


def test_cleaning_up_lets_go_of_the_model_and_configuring_again_starts_afresh(peer: Peer) -> None:
    alive: list[weakref.ref] = []

    def load(*arguments: Any, **options: Any) -> FakeSegmenter:
        segmenter = fake_loader()(*arguments, **options)
        alive.append(weakref.ref(segmenter))
        return segmenter

    overrides = [Parameter("checkpoint", value="fake"), Parameter("vocabulary", value=["cup", "plate"])]
    host = Peer(lambda **options: Perception(load, parameter_overrides=overrides, **options))
    try:
        host.node.begin()
        wait_until(lambda: state(peer) == "active")
        for label in ("deactivate", "cleanup"):
            assert transition(peer, label)
        assert alive[0]() is None
        assert not peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary").vocabulary.classes
        assert transition(peer, "configure")
        assert peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary").vocabulary.version == 1
        assert len(alive) == 2
        assert host.node.finish(30.0)
        assert alive[1]() is None
    finally:
        host.close()


def test_what_the_cameras_frames_need_is_made_ready_one_at_configuring_and_the_others_beside() -> None:
    made: list[FakeSegmenter] = []
    waited_for: list[tuple[int, int]] = []

    def load(*arguments: Any, **options: Any) -> FakeSegmenter:
        made.append(fake_loader()(*arguments, **options))
        made[0].prepare = lambda height, width: waited_for.append((height, width))  # type: ignore[attr-defined]
        return made[0]

    values = {
        "checkpoint": "fake",
        "vocabulary": ["cup"],
        "cameras": ["front", "left", "right"],
        "camera_size": "640x480",
    }
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    host = Peer(lambda **options: Perception(load, parameter_overrides=overrides, **options))
    try:
        host.node.begin()
        wait_until(lambda: made and made[0].prepared)
        assert waited_for == [(480, 640)]
        assert made[0].prepared == [(480, 640, 3, True)]
        assert host.node.finish(30.0)
    finally:
        host.close()


def test_parameters_of_the_network_reach_whatever_builds_it() -> None:
    given: list[dict[str, Any]] = []

    def load(*arguments: Any, **options: Any) -> FakeSegmenter:
        given.append(options)
        return fake_loader()(*arguments, **options)

    network = {"device": "cpu", "backend": "eager", "precision": "fp32", "vanished_masks": "best_cell"}
    values = {"checkpoint": "fake", "vocabulary": ["cup"], **network}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    host = Peer(lambda **options: Perception(load, parameter_overrides=overrides, **options))
    try:
        host.node.begin()
        wait_until(lambda: host.node._lifecycle == "active")
        assert network.items() <= given[0].items()
        assert host.node.finish(30.0)
    finally:
        host.close()


def test_a_node_that_ended_leaves_the_ros_graph_though_something_still_holds_it(peer: Peer) -> None:
    overrides = [Parameter("checkpoint", value="fake"), Parameter("vocabulary", value=["cup"])]
    host = Peer(lambda **options: Perception(fake_loader(), parameter_overrides=overrides, **options))
    held = host.node  # as an executor does in whose list a timer's callback was left
    try:
        held.begin()
        wait_until(lambda: "fcclip" in peer.node.get_node_names() and held._lifecycle == "active")
        assert held.finish(30.0)
    finally:
        host.close()
    wait_until(lambda: "fcclip" not in peer.node.get_node_names())


def test_an_overlay_rate_that_is_raised_does_not_wait_out_the_old_period(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(rate_limit.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(outputs, "draw_overlay", lambda *_: np.zeros((1, 1, 3), np.uint8))
    host = Peer(lambda **options: LifecycleNode("publisher", **options))
    try:
        published = outputs.Outputs(host.node, "~/", SimpleNamespace())
        published.overlay_rate = 0.01
        assert published._overlay_is_due()
        frame = SimpleNamespace(snapshot=SimpleNamespace(published=()), image=None, result=None, header=Header())
        published._draw(frame)
        now[0] += 1.0
        assert not published._overlay_is_due()
        published.overlay_rate = 5.0
        assert published._overlay_is_due()
        published.overlay_rate = 0.0
        assert not published._overlay_is_due()
        del published
    finally:
        host.close()
