"""The bundled recorded drive, for machines that cannot render the world."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fcclip_core.files.resources import config_path


def bundled_drive() -> Path:
    """The folder of the drive, for `Recording`.

    Raises:
        FileNotFoundError: The installation has no data files.
    """
    return config_path().parent / "demo" / "drive"


def rendering_problem() -> str:
    """Why this machine cannot render; empty if it can.

    Tested in a subprocess, because a broken GL library may crash the process that loads it.
    """
    probe = "from fcclip_core.simulation.gl import make_context; make_context()"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    if not done.returncode:
        return ""
    return done.stderr.strip().rpartition("\n")[2].partition(": ")[2] or f"GL ended with status {done.returncode}"
