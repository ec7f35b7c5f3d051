"""A node that reads video: labeled images under the headers of their packets, damage as bad frames, and its queue."""

from __future__ import annotations

import itertools
import threading
import time
from array import array
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="av is not installed: run `make setup`")

from diagnostic_msgs.msg import DiagnosticArray
from optional_messages import messages_of
from ros_harness import RELIABLE, Peer, Process, camera, chosen_reliabilities, fake_node, running, status_of, wait_until
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from video_stream import packets

from fcclip_ros.node import video_input
from fcclip_ros.node.video_input import PACKETS_KEPT, VideoInput
from fcclip_ros.qos import OUTPUT

PICTURES = [np.full((48, 64, 3), 40 + 5 * number, np.uint8) for number in range(10)]


@pytest.fixture(scope="module")
def ffmpeg_msgs() -> Iterator[ModuleType]:
    with messages_of("ffmpeg_image_transport_msgs") as module:
        yield module


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, ffmpeg_msgs: ModuleType) -> Iterator[Process]:
    """A node that reads video of a camera elsewhere."""
    arguments = ("-p", "image_transport:=ffmpeg", "-r", "image:=/cam/image")
    log = tmp_path_factory.mktemp("video") / "node.log"
    with running(fake_node(0.002, *arguments), log, "reading images from") as process:
        yield process


class Sender:
    """Publishes a stream round and round, each packet with a stamp of its own; packets may be changed on their way."""

    def __init__(self, peer: Peer, ffmpeg_msgs: ModuleType) -> None:
        self._kind = ffmpeg_msgs.FFMPEGPacket
        self._publisher = camera(peer, "/cam/image/ffmpeg", RELIABLE, self._kind)
        self._stream = itertools.cycle(packets(PICTURES))
        self._seconds = itertools.count(1)
        self.damaged = 0
        wait_until(lambda: chosen_reliabilities(peer, "/cam/image/ffmpeg") == {RELIABLE})

    def send(self) -> None:
        fields = dict(vars(next(self._stream)))
        fields["header"] = Header(frame_id="camera")
        fields["header"].stamp.sec = next(self._seconds)
        if self.damaged:
            self.damaged -= 1
            fields["data"] = bytes(100)
        self._publisher.publish(self._kind(**{**fields, "data": array("B", fields["data"])}))
        time.sleep(0.02)


def test_images_of_a_video_are_labeled(node: Process, peer: Peer, ffmpeg_msgs: ModuleType) -> None:
    panoptic = peer.listen(Image, "/fcclip/panoptic", OUTPUT)
    sender = Sender(peer, ffmpeg_msgs)
    wait_until(lambda: sender.send() or panoptic.qsize() > 10)
    labeled = [message for _, message in list(panoptic.queue)]
    assert {(message.height, message.width, message.header.frame_id) for message in labeled} == {(48, 64, "camera")}
    stamps = [message.header.stamp.sec for message in labeled]
    assert stamps == sorted(set(stamps))
    assert "reading images from /cam/image/ffmpeg, reliable" in node.output


def test_damage_is_a_bad_frame_and_the_stream_goes_on(node: Process, peer: Peer, ffmpeg_msgs: ModuleType) -> None:
    panoptic = peer.listen(Image, "/fcclip/panoptic", OUTPUT)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    sender = Sender(peer, ffmpeg_msgs)
    wait_until(lambda: sender.send() or panoptic.qsize() > 3)
    sender.damaged = 1
    wait_until(lambda: sender.send() or not sender.damaged)
    before = panoptic.qsize()
    wait_until(lambda: sender.send() or panoptic.qsize() > before + 10)
    values = status_of(diagnostics, lambda status, about: "video packet" in about["last error"])
    assert "cannot be decoded" in values["last error"] and "waiting for the next key frame" in values["last error"]
    assert int(values["frames bad"]) >= 1 and values["frames failed"] == "0"
    assert "frame not labeled: a video packet" in node.output


def test_a_decoder_that_is_too_slow_says_so_and_begins_again_at_a_key_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, images, bad, numbers = threading.Event(), [], [], []
    real = video_input.VideoDecoder.decode

    def slow(decoder: Any, packet: Any) -> Any:
        gate.wait(20)
        numbers.append(packet.header.stamp.sec)
        return real(decoder, packet)

    monkeypatch.setattr(video_input.VideoDecoder, "decode", slow)
    source = VideoInput(images.append, bad.append)
    source.start(10_000)
    stream = packets([PICTURES[number % 10] for number in range(PACKETS_KEPT + 20)])
    for number, packet in enumerate(stream):
        packet.header = Header()
        packet.header.stamp.sec = number
    try:
        for packet in stream[:-18]:
            source.put(packet)
        assert bad and "60 video packets wait for the decoder, which is slower than the camera" in bad[0]
        gate.set()
        wait_until(lambda: len(images) >= PACKETS_KEPT)
        before = len(images)
        for packet in stream[-18:]:  # they begin with the third of five, so two come before a key frame
            source.put(packet)
        wait_until(lambda: numbers[-1:] == [len(stream) - 1] and len(images) == before + 15)
    finally:
        source.stop()
    assert images[0].encoding == "rgb8" and (images[0].height, images[0].width, images[0].step) == (48, 64, 192)
    count = len(images)
    source.put(SimpleNamespace(encoding="libx264", flags=1, data=b""))
    assert len(images) == count, "stopped"
