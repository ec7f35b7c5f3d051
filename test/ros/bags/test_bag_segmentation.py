"""Labels for bags: what `fcclip segment BAG` writes, and that a recorded run is labeled as it was when it was live."""

from __future__ import annotations

import io
import json
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from bag_files import save
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from ros_harness import ROOT, Peer, Process, camera, publish_until, rgb_message, wait_until
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import CompressedImage, Image

from fcclip_core.cli import main
from fcclip_ros import msg
from fcclip_ros.bags import bag_reader
from fcclip_ros.bags.bag_segmentation import BagImages
from fcclip_ros.conversions.gray_range import GrayRange
from fcclip_ros.qos import OUTPUT

DRIVE = sorted((ROOT / "demo" / "drive" / "images").iterdir())
WORDS = ["cup", "plate", "floor"]
TYPES = {
    "panoptic": Image,
    "semantic": Image,
    "confidence": Image,
    "segments": msg.SegmentArray,
    "vocabulary": msg.Vocabulary,
}


def drive_messages(count: int) -> list[Image]:
    """The first frames of the recorded drive, a tenth of a second apart."""
    pictures = [np.asarray(PIL.Image.open(path).convert("RGB")) for path in DRIVE[:count]]
    return [
        rgb_message(pixels, "front_optical", Time(sec=100, nanosec=100_000_000 * number))
        for number, pixels in enumerate(pictures)
    ]


def load(path: Path) -> dict[str, list[tuple[int, object]]]:
    """What a labeled bag holds, read by ROS's own code: topic -> (time of recording, message)."""
    found: dict[str, list[tuple[int, object]]] = {}
    with AnyReader([path]) as reader:
        for connection, recorded, data in reader.messages():
            name = connection.topic.removeprefix("/fcclip/")
            if name in TYPES:
                found.setdefault(name, []).append((recorded, deserialize_message(bytes(data), TYPES[name])))
            else:
                found.setdefault(connection.topic, []).append((recorded, bytes(data)))
    return found


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What the command said, in one line."""
    return " ".join(capsys.readouterr().err.split())


def segment(bag: Path, out: Path, *options: str, checkpoint: str = "recipe:tiny", shorter_side: str = "64") -> int:
    words = ["--vocab", "; ".join(WORDS), "--stuff", "floor"]
    model = ["--checkpoint", checkpoint, "--shorter-side", shorter_side, "--backend", "eager", "--device", "cpu"]
    return main(["segment", str(bag), "--out", str(out), *words, *model, *options])


@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_every_image_of_a_bag_gets_what_the_node_would_publish(plugin: StoragePlugin, tmp_path: Path) -> None:
    images = drive_messages(3)
    bag = save(tmp_path / "run", [("/image", image) for image in images], plugin)
    out = tmp_path / "out"
    assert segment(bag, out) == 0
    found = load(out / "run_bag")
    assert set(found) == set(TYPES)
    assert len(found["vocabulary"]) == 1
    (came, words), lines = found["vocabulary"][0], (out / "run_frames.jsonl").read_text().splitlines()
    assert came == 10**18
    assert [item.synonyms[0] for item in words.classes] == WORDS
    assert [item.is_thing for item in words.classes] == [True, True, False]
    for number, image in enumerate(images):
        about = json.loads(lines[number])
        for name in ("panoptic", "semantic", "confidence", "segments"):
            recorded, message = found[name][number]
            assert recorded == 10**18 + number * 10**8
            assert message.header == image.header
        panoptic, segments = found["panoptic"][number][1], found["segments"][number][1]
        assert (panoptic.encoding, panoptic.height, panoptic.width) == ("16UC1", image.height, image.width)
        pixels = np.frombuffer(panoptic.data, "<u2").reshape(image.height, image.width)
        assert (np.asarray(PIL.Image.open(out / about["labels"])) == pixels).all()
        assert about["stamp"] == [100, 100_000_000 * number]
        assert [item["id"] for item in about["segments"]] == [item.id for item in segments.segments]
        assert segments.vocabulary_version == words.version == 1
    document = json.loads((out / "run.json").read_text())
    assert (document["frames"], document["unreadable"]) == (3, 0)
    assert (out / document["files"]["overlay"]).stat().st_size > 0


def test_ignored_pixels_and_contours_are_in_the_bag_too(tmp_path: Path) -> None:
    (image,) = drive_messages(1)
    bag, out = save(tmp_path / "run", [("/image", image)], StoragePlugin.MCAP), tmp_path / "out"
    ignored = np.zeros((image.height, image.width), np.uint8)
    ignored[:, : image.width // 2] = 1
    PIL.Image.fromarray(ignored).save(tmp_path / "arm.png")
    assert segment(bag, out, "--ignore-mask", str(tmp_path / "arm.png"), "--contours", "polygons") == 0
    found = load(out / "run_bag")
    panoptic, segments = found["panoptic"][0][1], found["segments"][0][1]
    pixels = np.frombuffer(panoptic.data, "<u2").reshape(image.height, image.width)
    assert not pixels[ignored == 1].any() and pixels.any()
    about = json.loads((out / "run_frames.jsonl").read_text())
    assert segments.segments
    for item, described in zip(segments.segments, about["segments"], strict=True):
        assert [list(polygon.corners) for polygon in item.polygons] == described["segmentation"]
        assert all(min(polygon.corners[::2]) >= image.width // 2 for polygon in item.polygons)


def test_what_competes_is_in_no_part_of_the_bag_and_no_file(tmp_path: Path) -> None:
    (image,) = drive_messages(1)
    bag = save(tmp_path / "run", [("/image", image)], StoragePlugin.MCAP)
    segmented = {}
    for name, options in {"alone": (), "beside": ("--background", "secret lamp; secret tree; secret rug")}.items():
        assert segment(bag, tmp_path / name, "--overlap-threshold", "0", *options) == 0
        segmented[name] = load(tmp_path / name / "run_bag")
        assert not any("secret" in str(message) for rows in segmented[name].values() for _, message in rows)
        for file in (tmp_path / name).glob("*.json*"):
            assert "secret" not in file.read_text(), file
    labels = {name: np.frombuffer(found["panoptic"][0][1].data, "<u2") for name, found in segmented.items()}
    assert (labels["beside"] == 0).sum() > (labels["alone"] == 0).sum(), "competitors took some pixels"
    semantic = np.frombuffer(segmented["beside"]["semantic"][0][1].data, np.uint8)
    assert ((semantic == 0) == (labels["beside"] == 0)).all() and semantic.any()


def test_a_broken_image_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = drive_messages(2)
    bag = save(tmp_path / "run", [("/image", good[0]), ("/image", Image(encoding="nv16")), ("/image", good[1])])
    assert segment(bag, tmp_path / "out", "--overlay", "none") == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "run_frames.jsonl").read_text().splitlines()]
    assert "encoding 'nv16' is not supported" in lines[1]["error"]
    assert len(load(tmp_path / "out" / "run_bag")["panoptic"]) == 2
    assert "1 of 3 frames could not be read" in said(capsys)


def test_images_beyond_the_limit_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = drive_messages(2)
    line = Image(encoding="mono8", height=1, width=400_000, step=400_000, data=np.zeros(400_000, np.uint8))
    bag = save(tmp_path / "run", [("/image", good[0]), ("/image", line), ("/image", good[1])])
    assert segment(bag, tmp_path / "out", "--overlay", "none") == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "run_frames.jsonl").read_text().splitlines()]
    assert "400000 x 1 pixels; a side may have 65500 at most" in lines[1]["error"]
    assert "1 of 3 frames could not be read" in said(capsys)
    limit = ("--max-image-pixels", str(good[0].height * good[0].width - 1))
    assert segment(bag, tmp_path / "none", "--overlay", "none", *limit) == 1
    assert "none of its 3 images can be read" in said(capsys)


def test_damaged_and_lying_jpegs_are_left_out_and_said(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    PIL.Image.fromarray(noise).save(buffer, "JPEG")
    good = buffer.getvalue()
    sizes = good.find(b"\xff\xc0") + 5
    claims = good[:sizes] + (6_000).to_bytes(2, "big") * 2 + good[sizes + 4 :]
    sent = [good, good[: len(good) // 2] + b"\xff\xd9", claims, good]
    messages = [CompressedImage(format="jpeg", data=array("B", data)) for data in sent]
    bag = save(tmp_path / "run", [("/image/compressed", message) for message in messages])
    assert segment(bag, tmp_path / "out", "--overlay", "none") == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "run_frames.jsonl").read_text().splitlines()]
    assert "its data are truncated" in lines[1]["error"]
    assert "claims 6000 x 6000 pixels, but has too little data" in lines[2]["error"]
    assert "error" not in lines[0] | lines[3]


def test_the_input_is_copied_on_request_but_for_what_is_written_anew(tmp_path: Path) -> None:
    image = drive_messages(1)[0]
    old = Image(header=image.header, height=1, width=1, step=2, encoding="16UC1", data=b"\0\0")
    bag = save(tmp_path / "run", [("/image", image), ("/depth", old), ("/fcclip/panoptic", old)])
    assert segment(bag, tmp_path / "out", "--topic", "/image", "--with-input", "--overlay", "none") == 0
    found, given = load(tmp_path / "out" / "run_bag"), load(bag)
    assert len(found["/image"]) == len(found["/depth"]) == 1
    assert found["/image"] == given["/image"]
    assert found["/depth"] == given["/depth"]
    assert [message.width for _, message in found["panoptic"]] == [image.width]


def test_compressed_depth_beside_the_images_is_no_choice(tmp_path: Path) -> None:
    image = drive_messages(1)[0]
    depth = CompressedImage(header=image.header, format="16UC1; compressedDepth png")
    bag = save(tmp_path / "run", [("/image", image), ("/depth/compressedDepth", depth)])
    assert segment(bag, tmp_path / "out", "--overlay", "none") == 0
    assert len(load(tmp_path / "out" / "run_bag")["segments"]) == 1


def save_video(
    path: Path,
    pictures: list[np.ndarray],
    reordered: int = 0,
    without: tuple[int, ...] = (),
    beside: Image | None = None,
) -> Path:
    """A bag as ffmpeg_image_transport fills it, without some packets; stamps are the pictures' numbers."""
    pytest.importorskip("av", reason="av is not installed: run `make setup`")
    from video_stream import packets

    kind = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
    store = get_typestore(Stores.ROS2_HUMBLE)
    definition = (ROOT / "test/interfaces/ffmpeg_image_transport_msgs/msg/FFMPEGPacket.msg").read_text()
    store.register(get_types_from_msg(definition, kind))
    header, time = store.types["std_msgs/msg/Header"], store.types["builtin_interfaces/msg/Time"]
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/image/ffmpeg", kind, typestore=store)
        for number, packet in enumerate(packets(pictures, key_every=5, reordered=reordered)):
            fields = {**vars(packet), "data": np.frombuffer(packet.data, np.uint8)}
            fields["header"] = header(stamp=time(sec=packet.header, nanosec=0), frame_id="front")
            if number not in without:
                writer.write(connection, 10**18 + number, store.serialize_cdr(store.types[kind](**fields), kind))
        if beside is not None:
            connection = writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=store)
            writer.write(connection, 10**18, serialize_message(beside))
    return path


@pytest.mark.parametrize("reordered", [0, 2])
def test_every_image_of_a_video_topic_is_labeled_under_its_own_stamp(reordered: int, tmp_path: Path) -> None:
    pictures = [np.full((48, 64, 3), 10 + 20 * number, np.uint8) for number in range(10)]
    bag = save_video(tmp_path / "run", pictures, reordered)
    frames = list(BagImages(bag).frames())
    assert [frame.stamp for frame in frames] == [(number, 0) for number in range(10)]
    assert all(abs(int(frame.image.mean()) - 10 - 20 * number) < 4 for number, frame in enumerate(frames))
    assert sorted(frame.recorded - 10**18 for frame in frames) == list(range(10))
    assert segment(bag, tmp_path / "out", "--overlay", "none") == 0
    found = load(tmp_path / "out" / "run_bag")["panoptic"]
    # At the times of their packets, which were recorded in another order.
    assert sorted(message.header.stamp.sec for _, message in found) == list(range(10))


def test_video_packets_without_a_key_frame_are_said_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [np.full((48, 64, 3), 10 + 20 * number, np.uint8) for number in range(10)]
    bag = save_video(tmp_path / "run", pictures, without=(0,))
    assert segment(bag, tmp_path / "out", "--overlay", "none") == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "run_frames.jsonl").read_text().splitlines()]
    assert ["error" in line for line in lines] == [True] * 4 + [False] * 5
    assert "before the first key frame" in lines[0]["error"]
    assert "4 of 9 frames could not be read" in said(capsys)


def test_images_are_preferred_to_a_video_beside_them(tmp_path: Path) -> None:
    (image,) = drive_messages(1)
    bag = save_video(tmp_path / "run", [np.zeros((48, 64, 3), np.uint8)], beside=image)
    shapes = [next(iter(BagImages(bag, topic).frames())).image.shape[:2] for topic in ("", "/image/ffmpeg")]
    assert shapes == [(image.height, image.width), (48, 64)]


def test_thermal_images_are_read_with_a_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.repeat(np.linspace(28000, 32000, 64).astype("<u2")[None], 48, axis=0)
    thermal = Image(height=48, width=64, step=128, encoding="16UC1", data=array("B", values.tobytes()))
    bag = save(tmp_path / "run", [("/image", thermal)])
    assert segment(bag, tmp_path / "without", "--overlay", "none") == 1
    assert "none of its 1 images can be read" in said(capsys)
    assert segment(bag, tmp_path / "out", "--overlay", "none", "--gray16-range", "28000 32000") == 0
    (frame,) = BagImages(bag, gray_range=GrayRange(28000, 32000)).frames()
    assert (frame.image[0, 0].tolist(), frame.image[0, -1].tolist()) == ([0, 0, 0], [255, 255, 255])
    capsys.readouterr()
    assert segment(bag, tmp_path / "out", "--overlay", "none", "--gray16-range", "1% 99%") == 0
    assert "otherwise (outputs 1)" in said(capsys)
    assert segment(bag, tmp_path / "out", "--gray16-range", "warm") == 2
    assert "--gray16-range is 'warm'; it must be full, two values" in said(capsys)


def test_what_cannot_be_labeled_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = drive_messages(1)[0]
    several = save(tmp_path / "several", [("/left", image), ("/right", image)])
    broken = save(tmp_path / "broken", [("/image", Image(encoding="nv16"))])
    (tmp_path / "no.mcap").write_bytes(b"no bag")
    for bag, complaint in (
        (several, "2 image topics (/left, /right); choose one with --topic"),
        (broken, "none of its 1 images can be read"),
        (tmp_path / "no.mcap", "is not a readable ROS 2 bag"),
    ):
        out = tmp_path / f"out_{bag.stem}"
        assert segment(bag, out, "--overlay", "none") == 1
        assert complaint in said(capsys)
        assert not [path for path in out.rglob("*") if path.is_file()]


def test_recorded_types_and_qualities_are_those_of_the_node(tmp_path: Path) -> None:
    """Hashes from the build of the messages; a player must latch what the node latched."""
    bag = save(tmp_path / "run", [("/image", drive_messages(1)[0])])
    assert segment(bag, tmp_path / "out", "--overlay", "none") == 0
    hashes = {path.stem: path.with_suffix(".json") for path in bag_reader.definition_files("fcclip_ros")}
    with AnyReader([tmp_path / "out" / "run_bag"]) as reader:
        kinds = {connection.topic: connection for connection in reader.connections}
        for name in ("Vocabulary", "SegmentArray"):
            built = json.loads(hashes[name].read_text())["type_hashes"]
            expected = next(item["hash_string"] for item in built if item["type_name"] == f"fcclip_ros/msg/{name}")
            topic = "/fcclip/vocabulary" if name == "Vocabulary" else "/fcclip/segments"
            assert kinds[topic].digest == expected
        durability = {topic: kinds[topic].ext.offered_qos_profiles[0].durability for topic in kinds}
    assert durability["/fcclip/vocabulary"] == QosDurability.TRANSIENT_LOCAL
    assert durability["/fcclip/panoptic"] == QosDurability.VOLATILE


@pytest.mark.slow
@pytest.mark.parametrize(("checkpoint", "shorter_side"), [("recipe:tiny", "64"), ("demo", "320")])
def test_a_recorded_run_is_labeled_as_it_was_live(
    start_process: Callable[..., Process], peer: Peer, tmp_path: Path, checkpoint: str, shorter_side: str
) -> None:
    """The node, a camera and a recorder; then the recording goes through the command: every message is the same."""
    settings = {"checkpoint": checkpoint, "shorter_side": shorter_side, "backend": "eager", "device": "cpu"}
    settings |= {"vocabulary": str(WORDS), "stuff": "['floor']"}
    options = [part for name, value in settings.items() for part in ("-p", f"{name}:={value}")]
    node = start_process("-m", "fcclip_ros.perception", "--ros-args", *options)
    node.wait_for("reading images from", 200.0)
    live = {
        name: peer.listen(TYPES[name], f"/fcclip/{name}", OUTPUT)
        for name in ("panoptic", "semantic", "confidence", "segments")
    }
    publisher = camera(peer)
    # Until subscriber and publisher have settled on a reliability, images may be lost.
    warm_up = drive_messages(1)[0]
    warm_up.header.stamp.sec = 1
    publish_until(publisher, warm_up, lambda: not live["segments"].empty(), 120.0, rate=2.0)
    wait_until(lambda: "reliable, 1 publisher" in node.output, 60.0)
    images, recorded = drive_messages(8), []
    for image in images:
        publisher.publish(image)
        recorded.append(("/image", image))
        for name, messages in live.items():
            while (message := messages.get(timeout=120)[1]).header.stamp != image.header.stamp:
                assert message.header.stamp.sec == 1, "an answer to another image"
            recorded.append((f"/fcclip/{name}", message))
    save(tmp_path / "run", recorded)
    options = ["--topic", "/image", "--overlay", "none"]
    model = {"checkpoint": checkpoint, "shorter_side": shorter_side}
    assert segment(tmp_path / "run", tmp_path / "out", *options, **model) == 0
    before, after = load(tmp_path / "run"), load(tmp_path / "out" / "run_bag")
    for name in live:
        assert [message for _, message in after[name]] == [message for _, message in before[name]]
        assert len(after[name]) == len(images)
    assert len({bytes(message.data) for _, message in after["panoptic"]}) > 1
