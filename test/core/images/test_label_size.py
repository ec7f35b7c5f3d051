"""Images are reduced to the size of labels that `output_stride` made smaller."""

from __future__ import annotations

import numpy as np
import pytest

from fcclip_core.errors import ImageError
from fcclip_core.images.label_size import at_label_size


def test_pixels_of_a_label_are_averaged() -> None:
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, 0], image[0, 2] = 100, 200
    np.testing.assert_array_equal(at_label_size(image, (1, 2))[0, :, 0], [50, 50])


def test_an_image_of_the_same_size_is_not_copied() -> None:
    image = np.zeros((2, 4, 3), np.uint8)
    assert at_label_size(image, (2, 4)) is image


@pytest.mark.parametrize("labels", [(4, 8), (1, 4), (480, 640), (2, 3)])
def test_labels_of_another_image_are_refused(labels: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="the image is 2 x 4 pixels and the segment map .* use the image that was seg"):
        at_label_size(np.zeros((2, 4, 3), np.uint8), labels)


def test_odd_sizes_round_up() -> None:
    assert at_label_size(np.full((481, 641, 3), 7, np.uint8), (241, 321)).min() == 7
