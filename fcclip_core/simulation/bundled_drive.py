"""The recorded drive that comes with the package, for machines on which the world cannot be rendered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fcclip_core.files.resources import config_path


def bundled_drive() -> Path:
    """Its folder, for `Recording`.

    Raises:
        FileNotFoundError: The installation has no files beside its code.
    """
    return config_path().parent / "demo" / "drive"


def rendering_problem() -> str:
    """What stands in the way of rendering here, in words; empty if nothing does.

    Tried in a process of its own: a GL library that is damaged may end the process that loads it.
    """
    probe = "from fcclip_core.simulation.gl import make_context; make_context()"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    if not done.returncode:
        return ""
    return done.stderr.strip().rpartition("\n")[2].partition(": ")[2] or f"GL ended with status {done.returncode}"
