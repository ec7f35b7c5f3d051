"""What all tests share. A conftest here also makes pytest put test/ on sys.path, so that tests import `oracle`."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What dies now dies at once; memory of a GPU cannot wait until Python looks for circles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
