"""What the ROS tests share: a domain of their own, peers to talk to nodes with, and node processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_PROFILE = _ROOT / "config" / "fastdds.xml"


def _claim_domain() -> tuple[int, socket.socket]:
    """Finds a DDS domain that nobody on this machine uses, and holds a port so that no other test session takes it."""
    for domain in range(1, 100):
        holder, probe = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            holder.bind(("127.0.0.1", 27_400 + domain))
            # The port on which the first participant of a domain listens for others.
            probe.bind(("0.0.0.0", 7_410 + 250 * domain))
            return domain, holder
        except OSError:
            holder.close()
        finally:
            probe.close()
    raise RuntimeError("no free ROS domain")


_DOMAIN, _HOLDER = _claim_domain()
os.environ["ROS_DOMAIN_ID"] = str(_DOMAIN)  # For what is imported; each module of tests gets one of its own.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.setdefault("OMP_NUM_THREADS", "1")
for _name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
    os.environ.setdefault(_name, str(_PROFILE))

from ros_harness import Peer, Process  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def domain() -> Iterator[None]:
    """A domain for each module: nodes that an earlier one left behind would be found in the place of its own."""
    number, holder = _claim_domain()
    with pytest.MonkeyPatch.context() as patch, holder:
        patch.setenv("ROS_DOMAIN_ID", str(number))
        yield


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
        process.kill()
        print(process.output)
