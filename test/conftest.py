"""Says at the end of each run what was skipped, and with `--strict-skips` refuses what `allowed_skips` does not list.

A conftest here also makes pytest put test/ on sys.path, so that tests import `oracle`.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator

import pytest

from allowed_skips import allowed


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--strict-skips", action="store_true", help="fail on skips that allowed_skips.py does not list")


def _skips(config: pytest.Config) -> Counter[str]:
    """Reason -> how many tests, or modules of tests, were skipped for it."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter else []
    return Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    refused = [reason for reason in _skips(session.config) if not allowed(reason)]
    if session.config.option.strict_skips and refused and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    skips = _skips(config)
    if not skips:
        return
    terminalreporter.section("skipped")
    for reason, count in sorted(skips.items()):
        entry = allowed(reason)
        verdict = f"allowed: {entry.why}" if entry else "NOT ALLOWED in CI: install what is missing"
        terminalreporter.line(f"{count} x {reason}  [{verdict}]", red=entry is None)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What dies now dies at once; memory of a GPU cannot wait until Python looks for circles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
