"""The `fcclip` command."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence

from fcclip_core.commands import (
    bench,
    doctor,
    evaluate,
    export,
    features,
    memory,
    segment,
    teach,
    train,
    view,
    vocab,
    weights,
    world,
)
from fcclip_core.commands.interruption import exit_status, interruptible
from fcclip_core.errors import FcclipError
from fcclip_core.files.resources import package_version
from fcclip_core.quoting import first_line, printable

COMMANDS = (segment, view, memory, weights, vocab, teach, train, evaluate, features, bench, export, world, doctor)

EXIT_ERROR = 2
EXIT_BROKEN_PIPE = 128 + 13


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Args:
        argv: Arguments without the program's name; None takes the process's.

    Returns:
        Exit code: the subcommand's own; 2 for an error, which is one line without --verbose; 130 after Ctrl-C, 143
        after SIGTERM, 129 after SIGHUP, 141 if the reader of the standard output has left.
    """
    _prepare_streams()
    verbose = False
    try:
        with interruptible():
            try:
                args = _parser().parse_args(argv)
            except SystemExit:  # help or a version was printed, or a complaint
                _flush_output()
                raise
            verbose = args.verbose
            if verbose:
                logging.basicConfig(level=logging.INFO)
            code = int(args.run(args))
            _flush_output()
            return code
    except KeyboardInterrupt as error:
        _complain("interrupted")
        return exit_status(error)
    except BrokenPipeError:  # the reader (`| head`) has left
        return EXIT_BROKEN_PIPE
    except FcclipError as error:
        _complain(str(error), verbose)
    except OSError as error:
        _complain(_sentence(error), verbose)
    except MemoryError as error:
        _complain(f"there is not enough memory{f' ({error})' if str(error) else ''}", verbose)
    except Exception as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        _complain(f"unexpected error: {said}; --verbose shows where, please report it", verbose)
    finally:
        _finish_output()
    return EXIT_ERROR


def _prepare_streams() -> None:
    """Makes the standard streams fit for any text, and be there: the next file must not become number 1 or 2."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
            continue
        with contextlib.suppress(AttributeError, ValueError, OSError):
            # A terminal whose encoding lacks a letter gets an escape.
            stream.reconfigure(errors="backslashreplace")


def _flush_output() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FcclipError(f"the standard output cannot be written: {error.strerror or error}") from error


def _finish_output() -> None:
    """Flushes the output; what cannot be written is dropped, or Python would report it again at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except ValueError:  # closed
            continue
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _complain(text: str, with_traceback: bool = False) -> None:
    with contextlib.suppress(OSError):
        if with_traceback:
            print(printable(traceback.format_exc()), file=sys.stderr, end="")
        print(f"fcclip: {printable(text)}", file=sys.stderr)


def _sentence(error: OSError) -> str:
    """What the system said, and of which file."""
    name = "reading or writing failed" if error.filename is None else os.fsdecode(error.filename)
    return f"{name}: {error.strerror or error}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fcclip", description="Open-vocabulary panoptic segmentation: name what matters, get its pixels."
    )
    parser.add_argument("--version", action="version", version=f"fcclip {package_version()}")
    parser.add_argument("--verbose", action="store_true", help="log what happens, and show tracebacks of errors")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    for subparser in subparsers.choices.values():
        # Also after the command's name, where most people write it; unset there, the value from before it counts.
        subparser.add_argument("--verbose", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
