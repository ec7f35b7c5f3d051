"""Whether pictures can be rendered on this machine; tests that need it are skipped with the reason elsewhere."""

from __future__ import annotations

import pytest

from fcclip_core.errors import SimulationError


def _missing() -> str:
    try:
        from fcclip_core.simulation.gl import make_context

        make_context().free()
    except SimulationError as error:
        return str(error)
    return ""


needs_gl = pytest.mark.skipif(bool(_missing()), reason=_missing())
