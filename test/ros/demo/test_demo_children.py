"""The demo's processes end whatever happens to the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo import children as children_module
from demo.children import Children, unused_domain_id
from fcclip_core.errors import FcclipError

POLITE = "import signal, time; print('up', flush=True); signal.sigwait([signal.SIGINT]); print('bye', flush=True)"
BLOCKED = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
time.sleep(100)
"""


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in (path.read_text() if path.exists() else ""):
        assert time.monotonic() < deadline, f"{path} never said {text}"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_children_are_asked_politely_and_log(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        children.start("camera", "-c", BLOCKED + POLITE)
        wait_for(tmp_path / "camera.log", "up")
        children.check()
        assert children.stop() == {"camera": 0}
    assert (tmp_path / "camera.log").read_text().split() == ["up", "bye"]


def test_one_child_can_be_ended_before_the_others(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        for name in ("camera", "node"):
            children.start(name, "-c", BLOCKED + POLITE)
            wait_for(tmp_path / f"{name}.log", "up")
        assert children.stop("camera") == {"camera": 0}
        children.check()
        assert children.stop() == {"camera": 0, "node": 0}


def test_child_that_ignores_signals_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = tuple((number, 0.2 if number != signal.SIGKILL else 5.0) for number, _ in children_module._PATIENCE)
    monkeypatch.setattr(children_module, "_PATIENCE", quick)
    with Children(tmp_path) as children:
        children.start("node", "-c", STUBBORN)
        wait_for(tmp_path / "node.log", "up")
        assert children.stop() == {"node": -signal.SIGKILL}


def test_children_end_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Children(tmp_path) as children:
        children.start("node", "-c", BLOCKED + POLITE)
        wait_for(tmp_path / "node.log", "up")
        process = children._processes["node"]
        raise KeyboardInterrupt
    assert process.returncode == 0


def test_dead_child_is_reported_with_its_log(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        children.start("node", "-c", "import sys; print('checkpoint missing'); sys.exit(3)")
        children._processes["node"].wait()
        with pytest.raises(FcclipError, match="(?s)node ended with exit status 3.*checkpoint missing"):
            children.check()


def test_children_end_when_the_demo_is_killed(tmp_path: Path) -> None:
    """SIGKILL leaves the demo no time for its own cleaning up."""
    script = (
        "import sys, time; from pathlib import Path; from demo.children import Children\n"
        f"children = Children(Path({str(tmp_path)!r})); children.start('node', '-c', sys.argv[1])\n"
        "print(children._processes['node'].pid, flush=True); time.sleep(100)"
    )
    with subprocess.Popen([sys.executable, "-c", script, BLOCKED + POLITE], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        pid = int(demo.stdout.readline())
        wait_for(tmp_path / "node.log", "up")
        demo.kill()
    try:
        wait_for(tmp_path / "node.log", "bye")
    finally:
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)


def test_domain_id_avoids_used_ports() -> None:
    # Domain d uses ports from 7400 + 250 d on; leave only 42 free.
    taken = {7400 + 250 * domain + 11 for domain in range(1, 101) if domain != 42}
    assert unused_domain_id(taken) == 42
    assert len({unused_domain_id(set()) for _ in range(30)}) > 5
    assert 1 <= unused_domain_id() <= 100
