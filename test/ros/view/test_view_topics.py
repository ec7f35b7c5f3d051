"""Which topics are shown: found by the names that the node gives, and asked for where that does not tell."""

from __future__ import annotations

import pytest

from fcclip_core.errors import ImageError
from fcclip_ros.view.topics import CAMERA_INFO, COMPRESSED, IMAGE, OUTPUTS, SEGMENTS, Wanted, find_parts

LABELS = {f"/fcclip/{role}": kind for role, kind in OUTPUTS.items()}
TWO = {f"/fcclip/{camera}/segments": SEGMENTS for camera in ("front", "left")}


def kind_of(topic: str) -> str:
    """What a topic of these tests holds; only here names say that."""
    return "16UC1" if "depth" in topic else "rgb8"


def roles(available: dict[str, str], wanted: Wanted | None = None, inputs: dict[str, str] | None = None) -> dict:
    encodings = {topic: kind_of(topic) for topic in available | (inputs or {})}
    parts = find_parts(available, wanted or Wanted(), encodings, inputs)
    return {(part.camera, part.role): topic for topic, part in parts.items() if topic not in LABELS | TWO}


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        pytest.param({}, {}, id="labels alone"),
        pytest.param({"/image": IMAGE}, {("", "image"): "/image"}, id="the node's own name"),
        pytest.param(
            {"/cam/color/image_raw": IMAGE, "/cam/color/camera_info": CAMERA_INFO, "/cam/camera_info": CAMERA_INFO},
            {("", "image"): "/cam/color/image_raw", ("", "camera_info"): "/cam/color/camera_info"},
            id="the only one, with the camera_info beside it",
        ),
        pytest.param(
            {"/cam/image/compressed": COMPRESSED, "/cam/camera_info": CAMERA_INFO},
            {("", "image"): "/cam/image/compressed", ("", "camera_info"): "/cam/camera_info"},
            id="compressed",
        ),
        pytest.param(
            {"/cam/image/compressed": COMPRESSED, "/cam/image": IMAGE}, {("", "image"): "/cam/image"}, id="raw first"
        ),
        pytest.param(
            {"/a/rgb": IMAGE, "/a/aligned_depth": IMAGE},
            {("", "image"): "/a/rgb", ("", "depth"): "/a/aligned_depth"},
            id="depth is no picture",
        ),
        pytest.param(
            {"/image": IMAGE, "/other": IMAGE, "/depth": IMAGE, "/other_depth": IMAGE},
            {("", "image"): "/image", ("", "depth"): "/depth"},
            id="the node's names among others",
        ),
        pytest.param({"/image": IMAGE, "/fcclip/overlay": IMAGE}, {("", "image"): "/image"}, id="overlays are none"),
    ],
)
def test_the_images_of_a_single_camera(others: dict, expected: dict) -> None:
    assert roles(LABELS | others) == expected


def test_of_a_running_node_only_what_it_reads_counts() -> None:
    others = {"/a/image": IMAGE, "/b/image": IMAGE, "/a/camera_info": CAMERA_INFO}
    read = {"/a/image": IMAGE, "/a/depth": IMAGE, "/parameter_events": "rcl_interfaces/msg/ParameterEvent"}
    expected = {("", "image"): "/a/image", ("", "camera_info"): "/a/camera_info", ("", "depth"): "/a/depth"}
    assert roles(LABELS | others, inputs=read) == expected
    assert roles(LABELS | others, inputs={}) == {}


def test_several_cameras_have_images_of_their_names_or_given_ones() -> None:
    named = {"/front/image": IMAGE, "/left/image": IMAGE, "/rear/image": IMAGE}
    assert roles(TWO | named) == {("front", "image"): "/front/image", ("left", "image"): "/left/image"}
    other = {"/zed/image": IMAGE, "/oak/image": IMAGE}
    given = Wanted(images=("/zed/image", "/oak/image"))
    assert roles(TWO | other, given) == {("front", "image"): "/zed/image", ("left", "image"): "/oak/image"}
    assert roles(TWO | other, Wanted(cameras=("left",), images=("/oak/image",))) == {("left", "image"): "/oak/image"}


def test_a_namespace_moves_the_nodes_names() -> None:
    labels = {topic.replace("/fcclip", "/robot/fcclip"): kind for topic, kind in LABELS.items()}
    found = find_parts(
        labels | {"/robot/image": IMAGE, "/image": IMAGE},
        Wanted("/robot/fcclip"),
        {"/robot/image": "rgb8", "/image": "bgr8"},
    )
    assert {part.role for part in found.values()} == {*OUTPUTS, "image"}
    assert found["/robot/image"].role == "image"


@pytest.mark.parametrize(
    ("available", "wanted", "complaint"),
    [
        ({"/image": IMAGE}, {}, "no labels of /fcclip or another node; topics: /image"),
        ({}, {}, "topics: none"),
        (LABELS, {"node": "/robot/fcclip"}, "but there are on /fcclip/segments; select them with --node"),
        (TWO, {"cameras": ("left", "rear")}, "no labels of cameras rear of /fcclip, but there are on /fcclip/front"),
        (LABELS | {"/a": IMAGE, "/b": IMAGE}, {}, "the images of /fcclip are ambiguous: /a, /b; select"),
        (TWO | {"/a": IMAGE, "/b": IMAGE}, {}, "the images of the cameras front, left are ambiguous"),
        (TWO | {"/a": IMAGE}, {"images": ("/a",)}, "--image is given 1 times for 2 cameras"),
        (LABELS | {"/a": IMAGE}, {"images": ("/b",)}, "--image /b has no images; topics with images: /a"),
        (LABELS | {"/a": IMAGE}, {"depths": ("/d",)}, "--depth /d has no images"),
    ],
)
def test_what_cannot_be_told_is_asked(available: dict, wanted: dict, complaint: str) -> None:
    with pytest.raises(ImageError) as caught:
        find_parts(available, Wanted(**wanted), dict.fromkeys(available, "rgb8"))
    assert complaint in str(caught.value)


@pytest.mark.parametrize("name", ["fcclip", "/fcclip/", ""])
def test_a_nodes_name_is_a_full_one(name: str) -> None:
    with pytest.raises(ImageError, match="not a fully qualified"):
        Wanted(name)


def test_depth_is_told_by_type_and_encoding_and_not_by_letters() -> None:
    available = LABELS | dict.fromkeys(("/depthai/rgb", "/stereo/range"), IMAGE)
    encodings = {"/depthai/rgb": "bgr8", "/stereo/range": "32FC1"}
    found = find_parts(available, Wanted(), encodings)
    assert (found["/depthai/rgb"].role, found["/stereo/range"].role) == ("image", "depth")
    # Nothing came on it yet, so it is neither.
    assert "/stereo/range" not in find_parts(available, Wanted(), {"/depthai/rgb": "bgr8"})


def test_depth_that_cannot_be_used_is_said() -> None:
    said: list[str] = []
    several = {"/a": IMAGE, "/b": IMAGE, "/image": IMAGE}
    find_parts(LABELS | several, Wanted(), {"/a": "16UC1", "/b": "32FC1", "/image": "rgb8"}, say=said.append)
    assert said.pop() == "depth on /a, /b is not used: the camera is ambiguous; select topics with --depth"
    packed = {"/image": IMAGE, "/d/compressed": COMPRESSED}
    formats = {"/image": "rgb8", "/d/compressed": "16UC1; png compressed "}
    found = find_parts(LABELS | packed, Wanted(), formats, say=said.append)
    assert "/d/compressed" not in found and "depth on /d/compressed is compressed like color" in said[0]


def test_compressed_depth_belongs_to_its_camera() -> None:
    available = TWO | {f"/{name}/depth/compressedDepth": COMPRESSED for name in ("front", "left")}
    formats = dict.fromkeys(available, "32FC1; compressedDepth png")
    found = find_parts(available, Wanted(), formats)
    assert (found["/left/depth/compressedDepth"].camera, found["/left/depth/compressedDepth"].role) == ("left", "depth")
    both = LABELS | {"/image": IMAGE, "/cam/depth": IMAGE, "/cam/depth/compressedDepth": COMPRESSED}
    formats = {"/image": "rgb8", "/cam/depth": "16UC1", "/cam/depth/compressedDepth": "16UC1; compressedDepth rvl"}
    found = find_parts(both, Wanted(), formats)
    assert {topic for topic, part in found.items() if part.role == "depth"} == {"/cam/depth"}, "raw first"
