"""`tfmix COMMAND`: finds the command, runs it, turns errors into messages and exit codes.

Nothing here, nor at the top of a command's module, imports TensorFlow: `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from enum import IntEnum
from types import ModuleType

from tfmix.cli import check, devices, evaluate, export, inspect, quantize, report, run, search
from tfmix.cli.common import Outcome, without_noise
from tfmix.errors import BudgetError, TfmixError, UnsupportedModelError
from tfmix.version import __version__

COMMANDS: tuple[ModuleType, ...] = (
    check,
    quantize,
    search,
    evaluate,
    export,
    report,
    run,
    inspect,
    devices,
)


class Exit(IntEnum):
    """What the command says to the shell."""

    OK = 0
    NO = 1  # the model cannot be quantized, or does not fit
    WRONG = 2  # arguments, files or data are wrong
    BUG = 3  # an error of tfmix
    STOPPED = 130  # Ctrl-C


_EXIT_CODES = """\
exit codes:
  0    done; what was asked holds
  1    the answer is no: the model cannot be quantized, or does not fit
  2    wrong arguments, files or data; the message says which
  3    an error of tfmix itself; --debug shows where
  130  stopped by Ctrl-C; quantize, and search --journal, go on when started again
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; argv: without the program's name."""
    parser = make_parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    # What the library prints is progress: stdout is for the result alone.
    with contextlib.redirect_stdout(sys.stderr), without_noise(arguments.debug):
        outcome = _run(arguments)
    text = json.dumps(outcome.document, indent=1) if arguments.json else outcome.text
    try:
        print(text, end="\n" * bool(text), flush=True)
    except BrokenPipeError:  # whoever reads has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(outcome.code)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tfmix",
        description="Mixed-precision quantization of Keras CNNs for microcontrollers.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tfmix {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        common = command.add_argument_group("output")
        common.add_argument(
            "--json", action="store_true", help="one JSON document on stdout, for machines"
        )
        common.add_argument("--quiet", action="store_true", help="no progress on stderr")
        common.add_argument("--debug", action="store_true", help="show where errors come from")
        command.set_defaults(run=module.run)
    return parser


def _run(arguments: argparse.Namespace) -> Outcome:
    """The command's outcome, or what its error comes to; messages go to stderr."""
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt as stop:
        return _failed(arguments, stop, Exit.STOPPED, str(stop) or "stopped")
    except (UnsupportedModelError, BudgetError) as error:
        return _failed(arguments, error, Exit.NO, str(error))
    except TfmixError as error:
        # A search that was stopped before it had anything says so itself.
        stopped = isinstance(error.__context__, KeyboardInterrupt)
        return _failed(arguments, error, Exit.STOPPED if stopped else Exit.WRONG, str(error))
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        message = f"internal error: {type(error).__name__}: {first} (--debug shows where)"
        return _failed(arguments, error, Exit.BUG, message)


def _failed(
    arguments: argparse.Namespace, error: BaseException, code: Exit, message: str
) -> Outcome:
    if arguments.debug:
        traceback.print_exception(error)
    print(f"tfmix: {message}", file=sys.stderr)
    document = {"error": message, "kind": type(error).__name__, "exit_code": int(code)}
    return Outcome(document, "", code)
