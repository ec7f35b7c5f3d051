"""Sizes as users write them."""

from __future__ import annotations

import pytest

from fcclip_core.errors import SettingsError
from fcclip_core.images.camera_size import described_size, parse_size


@pytest.mark.parametrize("text", ["640x480", " 640X480 ", "640 x 480", "640×480"])
def test_the_width_comes_first_as_cameras_say_it(text: str) -> None:
    assert parse_size(text) == (640, 480)


@pytest.mark.parametrize("text", ["640", "640x", "axb", "640x480x3", "-1x5", "0x64", "64x0", "²x5", "9999999x5"])
def test_unreadable_sizes(text: str) -> None:
    with pytest.raises(SettingsError, match="WIDTHxHEIGHT"):
        parse_size(text)


def test_a_size_that_may_be_the_wrong_way_round_is_named_with_the_other() -> None:
    assert described_size(640, 480) == "images 640 wide and 480 high"
    assert described_size(480, 640) == "images 480 wide and 640 high (portrait; if this is wrong, use 640x480)"
