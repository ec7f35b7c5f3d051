"""`fcclip doctor`: which hardware, backends, ROS and weights this machine has, and how to install the rest."""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcclip_core.commands.installation import Finding


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="check the installation: what this machine has, and how to install the rest",
        description="Exit code 0 if the model can run here (and, where ROS 2 is installed, the node too), else 1.",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Checks and prints.

    Returns:
        0 if the model can run here, else 1.
    """
    from fcclip_core.commands.installation import can_run, examine

    findings = examine()
    ready = can_run(findings)
    if args.json:
        print(json.dumps({"ready": ready, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        _show(findings, ready)
    return 0 if ready else 1


def _show(findings: list[Finding], ready: bool) -> None:
    from rich.text import Text

    from fcclip_core.terminal import Terminal

    colors = {"ok": "green", "note": "cyan", "missing": "yellow", "problem": "bold red"}
    console = Terminal(soft_wrap=True)
    for group, members in itertools.groupby(findings, lambda finding: finding.group):
        console.print(Text(f"\n{group}", style="bold"))
        for finding in members:
            line = Text.assemble((f"  {finding.state:8}", colors[finding.state]), f"{finding.name}: {finding.detail}")
            console.print(line)
            if finding.fix:
                console.print(Text(f"          -> {finding.fix}"))
    verdict = "the model can run here" if ready else "something has to be mended first: see the problems above"
    console.print(Text(f"\n{verdict}", style="green" if ready else "bold red"))
