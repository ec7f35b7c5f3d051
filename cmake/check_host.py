"""Says what `make setup` would miss on this machine, all at once and with the command that installs it.

Runs on any Python 3, because a Python that is too old is one of the things it reports.
"""

import ctypes
import os
import platform
import shutil
import sys
import sysconfig


def missing():
    """Yields one sentence for each thing that is missing."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        yield (
            f"Linux on x86-64, for which ROS 2 comes as wheels; this is {platform.system()} on {platform.machine()}: "
            "use a ROS 2 installation and colcon instead, docs/how-to/install.md says how"
        )
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        yield (
            f"Python 3.10 to 3.13, for which ROS 2 comes as wheels; {sys.executable} is Python {version}: "
            "name another one, for example `make setup PYTHON=python3.12`"
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        yield f"Python's virtual environments: sudo apt install python{version}-venv"
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        yield f"the Python headers, against which the messages are compiled: sudo apt install python{version}-dev"
    if not shutil.which(os.environ.get("CC", "cc")) or not shutil.which(os.environ.get("CXX", "c++")):
        yield "a C and a C++ compiler, which build the messages: sudo apt install build-essential"


def wanted():
    """Yields one sentence for each thing that setup can do without but a user may miss."""
    for library in ("libEGL.so.1", "libOSMesa.so"):
        try:
            ctypes.CDLL(library)
            return
        except OSError:
            pass
    yield (
        "a GL library: without one the simulated world cannot be rendered, and the demo plays a recorded drive: "
        "sudo apt install libegl1 libgl1-mesa-dri"
    )


if __name__ == "__main__":
    problems = list(missing())
    for problem in problems:
        print("setup needs " + problem, file=sys.stderr)
    for wish in wanted():
        print("setup can do without, but look for: " + wish, file=sys.stderr)
    sys.exit(1 if problems else 0)
