"""Leaves out the tests that launch kernels where another process runs them, and elsewhere the test that starts it.

So each counts once, and none that has run is reported as skipped.
"""

from __future__ import annotations

import pytest
from gpu_kernels import LAUNCHES


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unwanted = "starts_interpreter" if LAUNCHES else "launches_kernels"
    left_out = [item for item in items if item.get_closest_marker(unwanted)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
