"""The `fcclip` command."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from fcclip_core.commands import doctor, evaluate, export, segment, train, view, vocab, weights, world
from fcclip_core.errors import FcclipError
from fcclip_core.resources import config_path

COMMANDS = (segment, view, weights, vocab, train, evaluate, export, world, doctor)

EXIT_ERROR = 2
EXIT_INTERRUPTED = 128 + 2
EXIT_BROKEN_PIPE = 128 + 13


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Args:
        argv: Arguments without the program's name; None takes the process's.

    Returns:
        Exit code: the subcommand's own, 2 for an error that the user can mend, 130 after Ctrl-C.
    """
    args = _parser().parse_args(argv)
    if args.verbose:
        logging.basicConfig(level=logging.INFO)
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code
    except FcclipError as error:
        if args.verbose:
            traceback.print_exc()
        print(f"fcclip: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("fcclip: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has left; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fcclip", description="Open-vocabulary panoptic segmentation: name what matters, get its pixels."
    )
    parser.add_argument("--version", action="version", version=f"fcclip {_version()}")
    parser.add_argument("--verbose", action="store_true", help="log what happens, and show tracebacks of errors")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    for subparser in subparsers.choices.values():
        # Also after the command's name, where most people write it; unset there, the value from before it counts.
        subparser.add_argument("--verbose", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def _version() -> str:
    try:
        return version("fcclip")
    except PackageNotFoundError:  # built by colcon, which installs package.xml instead of Python metadata
        manifest = config_path().parent / "package.xml"
        return ElementTree.parse(manifest).findtext("version", "unknown")


if __name__ == "__main__":
    sys.exit(main())
