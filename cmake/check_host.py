"""Says what `make setup` would miss on this machine, all at once and with the command that installs it.

Runs on any Python 3, because a Python that is too old is one of the things it reports.
"""

import os
import platform
import shutil
import sys
import sysconfig


def missing():
    """Yields one sentence for each thing that is missing."""
    version = "{}.{}".format(*sys.version_info[:2])
    if sys.platform != "linux" or platform.machine() != "x86_64":
        yield (
            "ROS 2 comes as wheels for Linux on x86-64 only, this is {} on {}: use a ROS 2 installation and "
            "colcon instead, docs/development.md says how".format(platform.system(), platform.machine())
        )
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        yield (
            "{} is Python {}, ROS 2 comes as wheels for 3.10 to 3.13: name another one, for example "
            "`make setup PYTHON=python3.12`".format(sys.executable, version)
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        yield "Python cannot make virtual environments: sudo apt install python{}-venv".format(version)
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        yield "the Python headers, which the messages are compiled against: sudo apt install python{}-dev".format(version)
    if not shutil.which(os.environ.get("CC", "cc")) or not shutil.which(os.environ.get("CXX", "c++")):
        yield "a C and C++ compiler, which builds the messages: sudo apt install build-essential"


if __name__ == "__main__":
    problems = list(missing())
    for problem in problems:
        print("setup needs: " + problem, file=sys.stderr)
    sys.exit(1 if problems else 0)
