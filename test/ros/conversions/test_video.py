"""Video packets: the images that went in, under their headers, and what happens when packets are damaged or lost."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="av is not installed: run `make setup`")

from video_stream import packets

from fcclip_core.errors import ImageError, SettingsError
from fcclip_ros.conversions import video
from fcclip_ros.conversions.video import VideoDecoder, check_video_support

HEIGHT, WIDTH = 48, 64


def pictures(count: int, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """Smooth images that differ from each other and move; video keeps half of the colors' rows and columns."""
    across, down = np.meshgrid(np.linspace(0, 2, width), np.linspace(0, 2, height))
    return [
        np.stack([60 + 40 * across + 4 * number, 180 - 40 * down, 90 + 30 * across * down / 2], axis=-1).astype(
            np.uint8
        )
        for number in range(count)
    ]


def decoded(decoder: VideoDecoder, sent: list[Any]) -> dict[int, np.ndarray]:
    return {image.header: image.pixels for packet in sent for image in decoder.decode(packet)}


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
def test_each_packet_gives_its_image_at_once(encoder: str) -> None:
    made, decoder = pictures(12), VideoDecoder(10_000)
    for packet in packets(made, encoder):
        (image,) = decoder.decode(packet)
        assert image.header == packet.header and image.pixels.dtype == np.uint8
        assert np.abs(image.pixels.astype(int) - made[packet.header]).mean() < 3


def test_images_that_were_sent_out_of_order_have_their_own_headers() -> None:
    made = pictures(30)
    sent = packets(made, reordered=2, key_every=15)
    assert [packet.header for packet in sent] != sorted(packet.header for packet in sent)
    found = decoded(VideoDecoder(10_000), sent)
    assert list(found) == sorted(found) and len(found) >= 27
    for number, pixels in found.items():
        assert np.abs(pixels.astype(int) - made[number]).mean() < 3


def test_packets_before_the_first_key_frame_are_passed_over() -> None:
    decoder, sent = VideoDecoder(10_000), packets(pictures(12))
    assert not decoded(decoder, sent[2:5]) and decoder.waits_for_key_frame
    assert list(decoded(decoder, sent[5:])) == list(range(5, 12))
    assert not decoder.waits_for_key_frame
    decoder.reset()
    assert list(decoded(decoder, sent[7:])) == [10, 11]


def test_drivers_may_number_packets_as_they_like() -> None:
    sent = packets(pictures(6))
    for packet, number in zip(sent, (2**64 - 1, 0, 0, 5, 2**63, 1), strict=True):
        packet.pts = number
    assert list(decoded(VideoDecoder(10_000), sent)) == [0, 1, 2, 3, 4, 5]


def test_a_damaged_packet_is_one_error_and_the_next_key_frame_goes_on() -> None:
    decoder, sent = VideoDecoder(10_000), packets(pictures(12))
    assert list(decoded(decoder, sent[:5])) == [0, 1, 2, 3, 4]
    sent[5].data = bytes(200)
    with pytest.raises(ImageError, match="libx264;yuv420p;bgr8;bgr8', 200 bytes. cannot be decoded: .*next key frame"):
        decoded(decoder, sent[5:6])
    assert decoder.waits_for_key_frame
    assert list(decoded(decoder, sent[6:])) == [10, 11]


def test_noise_is_an_error_or_an_image_and_never_a_crash() -> None:
    dice, sent, decoder = np.random.default_rng(3), packets(pictures(20)), VideoDecoder(10_000)
    for _, packet in zip(range(200), itertools.cycle(sent), strict=False):
        noisy = np.frombuffer(packet.data, np.uint8).copy()
        noisy[dice.integers(0, len(noisy), 3)] = dice.integers(0, 256, 3)
        packet.data = noisy.tobytes()
        try:
            for image in decoder.decode(packet):
                assert image.pixels.shape == (HEIGHT, WIDTH, 3)
        except ImageError as error:
            assert len(str(error)) < 300


@pytest.mark.parametrize(
    ("encoding", "complaint"),
    [
        ("mjpeg;yuvj420p", "video encoding 'mjpeg;yuvj420p' is not supported; expected an encoder of H.264 or H.265"),
        ("", "video encoding '' is not supported"),
        ("x" * 1_000_000, "video encoding 'x{40}' is not supported"),
    ],
)
def test_an_encoding_that_is_none_is_refused(encoding: str, complaint: str) -> None:
    (packet,) = packets(pictures(1))
    packet.encoding = encoding
    with pytest.raises(ImageError, match=complaint):
        decoded(VideoDecoder(10_000), [packet])


@pytest.mark.parametrize("encoding", ["h264", "h264_nvenc", "LIBX264", " h264_vaapi ; nv12"])
def test_all_encoders_of_a_format_are_one_to_the_decoder(encoding: str) -> None:
    (packet,) = packets(pictures(1))
    packet.encoding = encoding
    assert len(decoded(VideoDecoder(10_000), [packet])) == 1


def test_more_pixels_than_allowed_are_refused() -> None:
    sent = packets(pictures(2, 96, 128))
    with pytest.raises(ImageError):
        decoded(VideoDecoder(10_000), sent)
    assert len(decoded(VideoDecoder(96 * 128), sent)) == 2


def test_a_camera_may_change_its_size_and_its_encoder() -> None:
    decoder = VideoDecoder(100_000)
    assert len(decoded(decoder, packets(pictures(3)))) == 3
    for encoder in ("libx264", "libx265"):
        found = decoded(decoder, packets(pictures(3, 96, 128), encoder))
        assert [pixels.shape for pixels in found.values()] == [(96, 128, 3)] * 3


def test_rows_that_an_encoder_filled_up_are_cut_off() -> None:
    sent = packets(pictures(1))
    sent[0].height, sent[0].width = HEIGHT - 8, WIDTH - 4
    assert decoded(VideoDecoder(10_000), sent)[0].shape == (HEIGHT - 8, WIDTH - 4, 3)


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ("ffmpeg_image_transport_msgs.msg", "ros-.ROS_DISTRO-ffmpeg-image-transport-msgs"),
        ("av", "PyAV: pip install av"),
    ],
)
def test_what_is_missing_is_said_with_its_command(
    missing: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "optional_module", lambda name: None if name == missing else object())
    with pytest.raises(SettingsError, match=complaint):
        check_video_support()
