"""What the ROS tests share: a domain of their own, peers to talk to nodes with, and node processes."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from checkout import ROOT as _ROOT

_PROFILE = _ROOT / "config" / "fastdds.xml"


_PARTICIPANTS = 16
"""As many participants of a domain are looked for; of each, the port that others reach it at."""


def _participants(domain: int) -> list[int]:
    """Those of a domain that are on this machine, by their number there."""
    found = []
    for number in range(_PARTICIPANTS):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("0.0.0.0", 7_400 + 250 * domain + 10 + 2 * number))
            except OSError:
                found.append(number)
    return found


def _claim_domain() -> tuple[int, socket.socket]:
    """Takes a DDS domain that nobody on this machine uses, and holds a port so that no other test session takes it.

    Never the same one twice: what is left in a domain would be found in the place of what was started there later.
    """
    for domain in _DOMAINS:
        holder = socket.socket()
        try:
            holder.bind(("127.0.0.1", 27_400 + domain))
        except OSError:
            holder.close()
            continue
        if not _participants(domain):
            return domain, holder
        holder.close()
    raise RuntimeError("no free ROS domain")


# Several processes share the tests (`-n 2`): each has domains of its own, and then those that others come to last.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_OWN = range(1 + _WORKER, 100, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
_DOMAINS = iter([*_OWN, *(domain for domain in range(99, 0, -1) if domain not in _OWN)])
_DOMAIN, _HOLDER = _claim_domain()
os.environ["ROS_DOMAIN_ID"] = str(_DOMAIN)  # For what is imported; each module of tests gets one of its own.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.setdefault("OMP_NUM_THREADS", "1")
for _name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
    os.environ.setdefault(_name, str(_PROFILE))

from optional_messages import messages_of, package_of  # noqa: E402
from ros_harness import Peer, Process  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def domain() -> Iterator[None]:
    """A domain for each module, in which nothing may be left: it would take time from all modules that follow."""
    number, holder = _claim_domain()
    with pytest.MonkeyPatch.context() as patch, holder:
        patch.setenv("ROS_DOMAIN_ID", str(number))
        yield
        gc.collect()
        assert not (left := _participants(number)), f"DDS participants {left} of domain {number} were not ended"


@pytest.fixture(scope="module")
def vision_msgs(domain: None) -> Iterator[ModuleType]:
    """The messages of vision_msgs, for a module whose nodes have that package."""
    with messages_of("vision_msgs") as messages:
        yield messages


@pytest.fixture(scope="module")
def tf2_msgs(domain: None) -> Iterator[ModuleType]:
    """The messages of tf2_msgs, for a module whose nodes have that package."""
    with messages_of("tf2_msgs") as messages:
        yield messages


@pytest.fixture(scope="module")
def tf2_ros(tf2_msgs: ModuleType) -> Iterator[ModuleType]:
    """The package tf2_ros, for a module whose nodes have that package."""
    with package_of("tf2_ros") as package:
        yield package


@pytest.fixture(scope="module")
def visualization_msgs(domain: None) -> Iterator[ModuleType]:
    """The messages of visualization_msgs, for a module whose nodes have that package."""
    with messages_of("visualization_msgs") as messages:
        yield messages


@pytest.fixture(scope="module")
def nav_msgs(domain: None) -> Iterator[ModuleType]:
    """The messages of nav_msgs, for a module whose nodes have that package."""
    with messages_of("nav_msgs") as messages:
        yield messages


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A node to talk to others with."""
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts node processes, and makes sure that none outlives the test."""
    processes: list[Process] = []

    def start(*command: str) -> Process:
        processes.append(Process(list(command), tmp_path / f"node_{len(processes)}.log"))
        return processes[-1]

    yield start
    for process in processes:
        process.close()
        print(process.output)
