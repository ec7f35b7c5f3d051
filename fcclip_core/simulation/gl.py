"""Selects a GL library for off-screen rendering, and imports MuJoCo, which reads the selection on import.

The rest of the package must import `mujoco` from here.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fcclip_core.errors import SimulationError

__all__ = ["mujoco"]

_LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so"}
_ADVICE = (
    "rendering needs EGL (`sudo apt install libegl1 libgl1-mesa-dri`; works without a GPU or display) "
    "or OSMesa (`sudo apt install libosmesa6-dev`, then MUJOCO_GL=osmesa)"
)


def _choose() -> None:
    """Sets MUJOCO_GL to the first available library, unless it is set."""
    if os.environ.get("MUJOCO_GL"):
        return
    for name, library in _LIBRARIES.items():
        with contextlib.suppress(OSError):
            ctypes.CDLL(library)
            os.environ["MUJOCO_GL"] = name
            return


def _load_triton_first() -> None:
    """Loads triton's library before Mesa: Mesa's LLVM is visible to all libraries loaded later, and crashes triton.

    In the other order, each uses its own LLVM. torch imports triton by itself.
    """
    spec = find_spec("triton")
    if spec is None or "OpenGL.osmesa" in sys.modules:
        return
    for folder in spec.submodule_search_locations or ():
        for library in Path(folder, "_C").glob("libtriton*.so"):
            with contextlib.suppress(OSError):  # reported when triton is used
                ctypes.CDLL(str(library))


_choose()
_load_triton_first()
try:
    import mujoco
except ImportError as problem:
    raise SimulationError(
        f"the simulated world needs MuJoCo, which cannot be imported ({problem}): `pip install mujoco`"
    ) from problem


def make_context() -> Any:
    """Creates an off-screen GL context, current in this thread; MUJOCO_GL (egl, osmesa) selects a library.

    Raises:
        SimulationError: No GL library works; says what to install.
    """
    library = os.environ.get("MUJOCO_GL", "")
    if not library:
        raise SimulationError(f"neither libEGL nor libOSMesa was found; {_ADVICE}")
    if library.lower() not in _LIBRARIES:
        raise SimulationError(f"MUJOCO_GL is {library!r}, which does not render off-screen; {_ADVICE}")
    try:
        context = mujoco.GLContext(64, 64)
        context.make_current()
    except Exception as error:  # each GL binding raises its own types
        raise SimulationError(f"MUJOCO_GL={library} has no off-screen GL context ({error}); {_ADVICE}") from error
    atexit.register(context.free)  # before PyOpenGL is torn down at interpreter exit
    return context
