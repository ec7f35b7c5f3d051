"""Bags that are damaged, unfinished, or hold what nobody here knows: the rest is read, and what is lost is said."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bag_files import save
from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from ros_harness import rgb_message
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from sensor_msgs.msg import Image

from fcclip_core.cli import main
from fcclip_core.errors import ImageError
from fcclip_core.files.bag_paths import is_bag
from fcclip_ros.bags import bag_segmentation as bags
from fcclip_ros.bags.bag_reader import message_definitions

PLUGINS = pytest.mark.parametrize("plugin", list(StoragePlugin), ids=["sqlite3", "mcap"])
SERVICE = "int64 a\nint64 b\n---\nint64 sum\n"
HASH = "RIHS01_" + "1f" * 32


def image(number: int, side: int = 40) -> Image:
    return rgb_message(np.full((side, side, 3), number, np.uint8), "camera", Time(sec=100, nanosec=number * 10**8))


def images(count: int = 6, side: int = 40) -> list[tuple[str, Image]]:
    return [("/image", image(number, side)) for number in range(count)]


def file_of(bag: Path) -> Path:
    (file,) = (path for path in bag.iterdir() if path.name != "metadata.yaml")
    return file


def read(bag: Path) -> tuple[list[int], list[str]]:
    """The numbers of the images that can be read, and what was said."""
    said: list[str] = []
    found = list(bags.read_messages(bag, ["/image"], said.append))
    good = [item.message.header.stamp.nanosec // 10**8 for item in found if not isinstance(item.message, ImageError)]
    return good, said + [str(item.message) for item in found if isinstance(item.message, ImageError)]


def segment(bag: Path, out: Path, *options: str) -> int:
    model = ["--checkpoint", "recipe:tiny", "--shorter-side", "64", "--backend", "eager", "--device", "cpu"]
    words = ["--vocab", "cup; floor", "--overlay", "none"]
    return main(["segment", str(bag), "--out", str(out), *words, *model, *options])


def lines(out: Path, name: str = "run") -> list[dict]:
    return [json.loads(line) for line in (out / f"{name}_frames.jsonl").read_text().splitlines()]


def records(data: bytes) -> list[tuple[int, int, int]]:
    """Kind, place and end of the records of an mcap file."""
    place, found = 8, []
    while place < len(data) - 8:
        kind, length = struct.unpack_from("<BQ", data, place)
        found.append((kind, place, place + 9 + length))
        place += 9 + length
    return found


def in_blocks(path: Path, count: int) -> Path:
    """An mcap bag with an image of 1.1 MB in each of its blocks."""
    return save(path, images(count, side=620))


# B5: one damaged message


@PLUGINS
def test_one_damaged_message_costs_itself_alone(
    plugin: StoragePlugin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Writer(tmp_path / "run", version=8, storage_plugin=plugin) as writer:
        topic = writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=message_definitions())
        for number in range(4):
            data = serialize_message(image(number))
            writer.write(topic, number, data if number != 1 else data[:30])
    good, said = read(tmp_path / "run")
    assert good == [0, 2, 3]
    assert len(said) == 1 and said[0].startswith("the message is damaged")
    assert segment(tmp_path / "run", tmp_path / "out") == 0
    assert "1 of 4 frames could not be read" in " ".join(capsys.readouterr().err.split())
    assert ["error" in line for line in lines(tmp_path / "out")] == [False, True, False, False]


@pytest.mark.parametrize("indexed", [True, False])
def test_a_damaged_block_of_an_mcap_file_costs_its_messages_alone(indexed: bool, tmp_path: Path) -> None:
    file = file_of(in_blocks(tmp_path / "run", 4))
    data = bytearray(file.read_bytes())
    chunks = [(place, end) for kind, place, end in records(bytes(data)) if kind == 6]
    assert len(chunks) == 4
    # The writer of these tests leaves out the checksum, which ROS's own has.
    struct.pack_into("<I", data, chunks[1][0] + 9 + 24, zlib.crc32(data[chunks[1][0] + 9 + 40 : chunks[1][1]]))
    file.write_bytes(data)
    assert read(tmp_path / "run") == ([0, 1, 2, 3], [])
    data[chunks[1][1] - 1000] ^= 0xFF
    # A length within a block that leads nowhere; its checksum is of no use here.
    data[chunks[2][0] + 9 + 24 : chunks[2][0] + 9 + 28] = bytes(4)
    data[chunks[2][0] + 9 + 40 + 1 : chunks[2][0] + 9 + 49] = b"\xff" * 8
    file.write_bytes(data if indexed else data[: chunks[-1][1]])
    good, said = read(tmp_path / "run")
    assert good == [0, 3]
    assert sum("is damaged between bytes" in text for text in said) == 2


def test_damaged_pages_of_a_sqlite3_file_cost_their_messages_alone(tmp_path: Path) -> None:
    file = file_of(save(tmp_path / "run", images(200, side=8), StoragePlugin.SQLITE3))
    data = bytearray(file.read_bytes())
    page = struct.unpack(">H", data[16:18])[0]
    damaged = len(data) // page // 2
    data[damaged * page : (damaged + 1) * page] = b"\xff" * page
    file.write_bytes(data)
    good, said = read(tmp_path / "run")
    assert 100 < len(good) < 200
    assert any("run.db3 is truncated or damaged" in text for text in said)


# B5: topics that cannot be understood


@PLUGINS
def test_service_and_action_events_and_unknown_types_cost_themselves_alone(
    plugin: StoragePlugin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `ros2 bag record --all` of Jazzy writes them: definitions with --- in them."""
    action = "int32 a\n---\nint32 b\n---\nint8 c\n"
    others = {
        "/add/_service_event": ("example_interfaces/srv/AddTwoInts_Event", SERVICE),
        "/go/_action/feedback": ("nav2_msgs/action/NavigateToPose_FeedbackMessage", action),
        "/go/_action/get_result/_service_event": ("nav2_msgs/action/Go_GetResult_Event", SERVICE),
        "/strange": ("acme_msgs/msg/Thing", "acme_msgs/Missing part\n"),
        "/nonsense": ("acme_msgs/msg/Nonsense", "this is }{ no definition\n"),
    }
    with Writer(tmp_path / "run", version=8, storage_plugin=plugin) as writer:
        topics = [writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=message_definitions())]
        for name, (kind, definition) in others.items():
            topics.append(writer.add_connection(name, kind, msgdef=definition, rihs01=HASH))
        for number in range(3):
            for topic in topics:
                writer.write(topic, number, serialize_message(image(number)) if topic is topics[0] else b"\0\1\0\0abcd")
    assert read(tmp_path / "run") == ([0, 1, 2], [])
    assert segment(tmp_path / "run", tmp_path / "out", "--with-input") == 0
    said: list[str] = []
    copied = bags.topics_in(tmp_path / "out" / "run_bag", said.append)
    assert {name: copied.get(name) for name in others} == {name: kind for name, (kind, _) in others.items()}
    with bags.opened(tmp_path / "out" / "run_bag", said.append) as bag:
        found = [(topic.name, data) for topic, _, data in bag.messages(others)]
        assert found == [(name, b"\0\1\0\0abcd") for _ in range(3) for name in others]
        assert bag.topics["/add/_service_event"].definition == SERVICE
    assert not said


def test_with_input_leaves_out_a_topic_of_unknown_type_and_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = save(tmp_path / "run", images(2), StoragePlugin.SQLITE3)
    with contextlib.closing(sqlite3.connect(file_of(bag))) as database:
        database.execute("INSERT INTO topics VALUES (9, '/alien', 'acme_msgs/msg/Thing', 'cdr', '', '')")
        database.execute("INSERT INTO topics VALUES (10, '/json', 'std_msgs/msg/String', 'json', '', '')")
        database.execute("INSERT INTO messages VALUES (99, 9, 1, x'00010000')")
        database.commit()
    assert segment(bag, tmp_path / "out", "--with-input") == 0
    text = " ".join(capsys.readouterr().err.split())
    assert (
        "/alien is not copied: the type acme_msgs/msg/Thing cannot be read: its definition is neither in the bag"
        in text
    )
    assert "/json is not copied: the serialization format 'json' is not supported" in text
    assert set(bags.topics_in(tmp_path / "out" / "run_bag", print)) >= {"/image", "/fcclip/panoptic"}
    left_out = json.loads((tmp_path / "out" / "run.json").read_text())["left_out"]
    assert len(left_out) == 2


# B5: a recorder that was killed


@PLUGINS
def test_a_folder_without_metadata_is_read(
    plugin: StoragePlugin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = save(tmp_path / "run", images(), plugin)
    (bag / "metadata.yaml").unlink()
    assert is_bag(bag)
    good, said = read(bag)
    assert good == list(range(6))
    assert "there is no metadata.yaml, so the recorder was killed" in said[0]
    assert segment(bag, tmp_path / "out") == 0
    assert "no metadata.yaml" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("text", ["", "[1, 2", "rosbag2_bagfile_information: {version: 99}", "a: &a [*a]", "\x00\xff"])
def test_a_useless_metadata_file_costs_nothing(text: str, tmp_path: Path) -> None:
    bag = save(tmp_path / "run", images(2))
    (bag / "metadata.yaml").write_text(text, encoding="latin-1")
    good, said = read(bag)
    assert good == [0, 1] and "metadata.yaml is invalid" in said[0]


def test_a_name_in_the_metadata_that_no_file_can_have_is_a_missing_file(tmp_path: Path) -> None:
    bag = save(tmp_path / "run", images(2))
    metadata, name = bag / "metadata.yaml", next(path.name for path in bag.iterdir() if path.suffix != ".yaml")
    metadata.write_text(metadata.read_text().replace(name, "x" * 5000 + name))
    good, said = read(bag)
    assert good == [0, 1]
    assert any("is missing, although it is listed in metadata.yaml" in text and len(text) < 1000 for text in said)


def without_end(data: bytes) -> bytes:
    return data[: [end for kind, _, end in records(data) if kind == 6][-1]]


def without_footer(data: bytes) -> bytes:
    return data[:-37]


def within_a_block(data: bytes) -> bytes:
    return data[: [end for kind, _, end in records(data) if kind == 6][-1] - 1000]


def within_a_head(data: bytes) -> bytes:
    return data[: [place for kind, place, _ in records(data) if kind == 6][-1] + 5]


@pytest.mark.parametrize(
    ("cut", "whole"), [(without_end, 4), (without_footer, 4), (within_a_block, 3), (within_a_head, 3)]
)
def test_an_mcap_file_without_its_end_is_read_as_far_as_it_is_whole(
    cut: Callable[[bytes], bytes], whole: int, tmp_path: Path
) -> None:
    bag = in_blocks(tmp_path / "run", 4)
    file = file_of(bag)
    (bag / "metadata.yaml").unlink()
    file.write_bytes(cut(file.read_bytes()))
    good, said = read(bag)
    assert good == list(range(whole))
    if cut is not without_footer:
        assert any("`mcap recover`" in text for text in said)


def test_loose_messages_of_an_mcap_file_without_end_are_read(tmp_path: Path) -> None:
    """As a recorder writes them that is told to make no blocks."""
    file = file_of(save(tmp_path / "run", images(3)))
    data = file.read_bytes()
    ((place, end),) = [(place, end) for kind, place, end in records(data) if kind == 6]
    inner = data[place + 9 + 40 : end]
    loose = data[:place] + inner
    (tmp_path / "loose.mcap").write_bytes(loose)
    assert read(tmp_path / "loose.mcap")[0] == [0, 1, 2]
    (tmp_path / "cut.mcap").write_bytes(loose[:-10])
    good, said = read(tmp_path / "cut.mcap")
    assert good == [0, 1] and "`mcap recover`" in said[0]


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_sqlite3_file_that_was_not_closed_is_read_with_what_lies_beside_it(mode: str, tmp_path: Path) -> None:
    bag = save(tmp_path / "run", images(2), StoragePlugin.SQLITE3)
    file = file_of(bag)
    killed = tmp_path / "killed"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute(f"PRAGMA journal_mode={mode}")
        database.execute("PRAGMA cache_size=1")
        database.execute("BEGIN")
        for number in range(2, 6):
            row = (number + 10, 10**19 // 8, serialize_message(image(number)))
            database.execute("INSERT INTO messages VALUES (?, 1, ?, ?)", row)
        if mode == "WAL":
            database.execute("COMMIT")
        shutil.copytree(bag, killed)  # as it lies there when the recorder is killed
        if mode != "WAL":
            database.execute("ROLLBACK")
    before = {path.name: path.read_bytes() for path in killed.iterdir()}
    good, said = read(killed)
    # What was not committed is taken back.
    assert good == ([0, 1, 2, 3, 4, 5] if mode == "WAL" else [0, 1])
    if mode == "WAL":
        assert "run.db3-wal is read, too" in said[0]
    assert {path.name: path.read_bytes() for path in killed.iterdir()} == before, "the user's folder is not touched"


@PLUGINS
def test_an_empty_file_is_named_and_the_others_are_read(plugin: StoragePlugin, tmp_path: Path) -> None:
    bag = save(tmp_path / "run", images(3), plugin)
    suffix = file_of(bag).suffix
    (bag / "metadata.yaml").unlink()
    file_of(bag).rename(bag / f"run_0{suffix}")
    (bag / f"run_1{suffix}").touch()
    good, said = read(bag)
    assert good == [0, 1, 2]
    assert any(f"run_1{suffix} is empty: the recorder was killed" in text and "skipped" in text for text in said)
    (bag / f"run_0{suffix}").write_bytes(b"")
    with pytest.raises(ImageError, match="is not a readable ROS 2 bag: run_0.* is empty"):
        read(bag)


@PLUGINS
def test_split_files_are_read_in_their_order_with_or_without_metadata(plugin: StoragePlugin, tmp_path: Path) -> None:
    bag = tmp_path / "run"
    bag.mkdir()
    for number in range(11):
        part = save(tmp_path / f"part_{number}", [("/image", image(number))], plugin)
        shutil.copy(file_of(part), bag / f"run_{number}{file_of(part).suffix}")
    assert read(bag)[0] == list(range(11))
    # Two recordings in one folder are none.
    shutil.copy(bag / f"run_1{file_of(part).suffix}", bag / f"other_1{file_of(part).suffix}")
    assert not is_bag(bag)


@pytest.mark.parametrize(
    ("plugin", "mode"),
    [
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
        (StoragePlugin.MCAP, CompressionMode.MESSAGE),
        (StoragePlugin.MCAP, CompressionMode.FILE),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
    ],
)
@pytest.mark.parametrize("killed", [False, True])
def test_compressed_bags_are_read(plugin: StoragePlugin, mode: CompressionMode, killed: bool, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run", version=8, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        topic = writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=message_definitions())
        for number in range(6):
            writer.write(topic, number, serialize_message(image(number, side=640)))
    bag = tmp_path / "run"
    if not killed:
        assert read(bag) == (list(range(6)), [])
        return
    (bag / "metadata.yaml").unlink()
    assert read(bag)[0] == list(range(6))
    file = file_of(bag)
    file.write_bytes(file.read_bytes()[:-60])
    with contextlib.suppress(ImageError):
        good, said = read(bag)
        assert good == list(range(len(good)))
        assert said


def test_blocks_that_claim_absurd_sizes_cost_no_memory(tmp_path: Path) -> None:
    file = file_of(save(tmp_path / "run", images(3)))
    data = bytearray(file.read_bytes())
    ((place, _),) = [(place, end) for kind, place, end in records(bytes(data)) if kind == 6]
    struct.pack_into("<Q", data, place + 9 + 16, 1 << 62)
    file.write_bytes(data)
    good, said = read(tmp_path / "run")
    assert good == [] and "the size of a chunk is" in said[0]


# B5: a second run


def test_a_second_run_replaces_all_outputs_of_the_first(tmp_path: Path) -> None:
    out = tmp_path / "out"
    bag = save(tmp_path / "run", images(4))
    (out / "run_labels").mkdir(parents=True)
    (out / "run_labels" / "000007.png").write_bytes(b"of a longer run")
    (out / "run_overlay.mp4").write_bytes(b"of a run with overlay")
    assert segment(bag, out) == 0
    shutil.rmtree(bag)
    save(bag, images(2))
    assert segment(bag, out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["run.json", "run_bag", "run_frames.jsonl", "run_labels"]
    assert sorted(path.name for path in (out / "run_labels").iterdir()) == ["000000.png", "000001.png"]
    assert len(lines(out)) == json.loads((out / "run.json").read_text())["frames"] == 2
    assert len(list(bags.read_messages(out / "run_bag", ["/fcclip/panoptic"], print))) == 2


@pytest.mark.parametrize("where", ["write", "copy", "finish"])
def test_a_second_run_that_fails_leaves_the_first_ones_outputs(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    bag = save(tmp_path / "run", images(2))
    assert segment(bag, out) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def fail(*_: object) -> None:
        raise ImageError("no room")

    monkeypatch.setattr(bags.LabelBag, where, fail)
    assert segment(bag, out, "--with-input") == 1
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_a_folder_of_labels_with_something_else_in_it_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "run_labels").mkdir(parents=True)
    (tmp_path / "out" / "run_labels" / "by_hand.png").write_bytes(b"mine")
    assert segment(save(tmp_path / "run", images(1)), tmp_path / "out") == 1
    text = " ".join(capsys.readouterr().err.split())
    assert "something else than label images of an earlier run (by_hand.png)" in text
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["by_hand.png"]


def test_what_is_no_bag_is_not_replaced_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out" / "run_bag").mkdir(parents=True)
    (tmp_path / "out" / "run_bag" / "thesis.txt").write_text("mine")
    assert segment(save(tmp_path / "run", images(1)), tmp_path / "out") == 1
    assert "already exists and is not a bag" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "out" / "run_bag" / "thesis.txt").read_text() == "mine"


# A8: sizes and times


def test_images_of_two_sizes_stay_in_step_and_times_are_those_of_the_stamps(tmp_path: Path) -> None:
    recorded = [("/image", image(number, side)) for number, side in enumerate((40, 40, 60, 60, 40))]
    recorded[3][1].header.stamp = Time(sec=108, nanosec=500_000_000)
    assert segment(save(tmp_path / "run", recorded), tmp_path / "out") == 0
    found = lines(tmp_path / "out")
    assert [line["frame"] for line in found] == [0, 1, 2, 3, 4]
    assert [line["time"] for line in found] == pytest.approx([0.0, 0.1, 0.2, 8.5, 0.4])
    assert all((tmp_path / "out" / line["labels"]).is_file() for line in found)


@PLUGINS
def test_bytes_at_random_raise_nothing_else_than_image_errors(plugin: StoragePlugin, tmp_path: Path) -> None:
    """Beginnings, lengths and contents: whatever a file claims, it is read or refused."""
    bag = save(tmp_path / "run", images(5, side=8), plugin)
    file = file_of(bag)
    whole, dice = file.read_bytes(), np.random.default_rng(7)
    for _ in range(60):
        damaged = bytearray(whole[: dice.integers(1, len(whole) + 1)])
        begin = dice.integers(len(damaged))
        for place in begin + dice.integers(1 + min(400, len(damaged) - begin), size=8):
            if place < len(damaged):
                damaged[place] = dice.choice([0, 1, 0x7F, 0xFF, dice.integers(256)])
        file.write_bytes(damaged)
        with contextlib.suppress(ImageError):
            for name in bags.topics_in(bag, lambda text: None):
                list(bags.read_messages(bag, [name], lambda text: None))
