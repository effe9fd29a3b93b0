"""The `starling` command: one module per subcommand, imported only when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

USAGE_ERROR = 2
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand and the module that holds its `add_parser(subparsers)` and `run(args) -> int`."""

    name: str
    help: str
    module: str


COMMANDS = (
    Command("serve", "run the server on this machine", "server.serve"),
    Command("transcribe", "print what is said in audio files", "starling_cli.transcribe"),
    Command("live", "transcribe the microphone, or a file in real time", "starling_cli.live"),
    Command("doctor", "look at what is installed, reachable and ready", "starling_cli.doctor"),
    Command("sessions", "list the stored sessions, or delete old ones", "starling_cli.transcripts"),
    Command("transcripts", "print, export or delete one session's transcript", "starling_cli.transcripts"),
    Command("keys", "make, list and revoke API keys", "starling_cli.keys"),
)

COMMAND_LIST = "\n".join(f"  {command.name:<13}{command.help}" for command in COMMANDS)

EPILOG = f"""\
commands:
{COMMAND_LIST}

examples:
  starling serve                              start the server
  starling transcribe talk.flac               print a recording's transcript
  starling transcribe --language es *.wav     several files, in Spanish
  starling live                               speak and read along
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output (head, say) has enough; nothing may be flushed into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: list[str]) -> int:
    name = arguments[0] if arguments else ""
    if name == "serve":
        # The server knows its own options.
        command: Callable[[Sequence[str]], int] = importlib.import_module("server.serve").serve_command
        return command(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="starling",
        description="Live speech to text.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", help="`starling COMMAND --help` says more")
    module = _add_commands(subparsers, name)
    args = parser.parse_args(arguments)
    if args.version:
        from importlib.metadata import version

        print(f"starling {version('starling')}")
        return 0
    if module is None:
        parser.print_help()
        return USAGE_ERROR
    run: Callable[[argparse.Namespace], int] = importlib.import_module(module).run
    return run(args)


def _add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], name: str) -> str | None:
    """Add all commands for the help, and the parser of the one that was asked for; return its module."""
    asked = next((command for command in COMMANDS if command.name == name), None)
    if asked is not None:
        importlib.import_module(asked.module).add_parser(subparsers)
        return asked.module
    for command in COMMANDS:
        subparsers.add_parser(command.name)
    return None
