"""`starling transcribe`: what is said in files, printed while it is recognised."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import starling_client
from starling_cli.options import add_connection_options, complain, explain
from starling_cli.pacing import in_real_time
from starling_cli.screen import LiveLine, printable
from starling_client import Event, Final, Partial, Reconnected, Reconnecting, Session
from starling_client.settings import SAMPLE_BYTES

PIECE_S = 0.1
FRAME_S = 0.02
STDIN = "-"


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "transcribe",
        help="print what is said in audio files",
        description="Prints what is said in audio files: WAV, FLAC and what else libsndfile reads, any rate, any "
        "number of channels. On a terminal the words appear as they are recognised and the finished ones stay.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="an audio file; - is raw audio from standard input")
    parser.add_argument(
        "--language", metavar="CODE", help="what is spoken, such as en, es or auto (default: the server's)"
    )
    parser.add_argument("--realtime", action="store_true", help="send at the speed of speech, as a microphone would")
    parser.add_argument("--json", action="store_true", help="print every event as one JSON object a line")
    parser.add_argument("--no-punctuation", action="store_true", help="bare words, lower case")
    parser.add_argument("--label", metavar="TEXT", help="a name for the session in the transcript store")
    raw = parser.add_argument_group("raw audio from standard input (FILE is -)")
    raw.add_argument("--encoding", choices=sorted(SAMPLE_BYTES), default="pcm_s16le", help="(default: pcm_s16le, mono)")
    raw.add_argument("--rate", type=int, default=16000, metavar="HZ", help="8000 to 48000 (default: 16000)")
    add_connection_options(parser)


def run(args: argparse.Namespace) -> int:
    """Transcribe all files; return 1 if one could not be."""
    printer = JsonPrinter() if args.json else TextPrinter(headings=len(args.files) > 1)
    try:
        return asyncio.run(_transcribe_all(args, printer))
    except KeyboardInterrupt:
        printer.close()
        complain("stopped")
        return 130


class TextPrinter:
    """Finals as lines, the partial and the progress in a line that is written over."""

    def __init__(self, *, headings: bool) -> None:
        """Print the name of each file above its text if `headings`."""
        self._headings = headings
        self._line = LiveLine(sys.stdout)
        self._progress = ""
        self._partials: dict[int, str] = {}
        self._note = ""

    def begin(self, name: str) -> None:
        """A new file begins."""
        if self._headings:
            self._line.finish(f"==> {name} <==")
        self._note = self._progress = ""
        self._partials = {}

    def progress(self, done_s: float, total_s: float | None) -> None:
        """So much of the file is through."""
        if total_s:
            self._progress = f"{min(100, round(100 * done_s / total_s)):3d} % "
        else:
            self._progress = f"{done_s:.0f} s "
        self._show()

    def event(self, event: Event) -> None:
        """Print an event."""
        match event:
            case Partial():
                self._partials[event.seq] = printable(event.text)
            case Final():
                self._partials = {seq: text for seq, text in self._partials.items() if seq > event.seq}
                if event.text:
                    self._line.finish(printable(event.text))
            case Reconnecting():
                self._note = f"[connection lost, attempt {event.attempt}] "
            case Reconnected():
                self._note = ""
            case starling_client.ErrorEvent() if event.recoverable:
                self._line.clear()
                complain(printable(event.message))
        self._show()

    def close(self) -> None:
        """The file is through, or was given up."""
        self._line.clear()

    def _show(self) -> None:
        self._line.show(f"{self._progress}{self._note}", " ".join(self._partials.values()))


class JsonPrinter:
    """Events as JSON lines."""

    def __init__(self) -> None:
        """Begin with no file."""
        self._name = ""

    def begin(self, name: str) -> None:
        """A new file begins."""
        self._name = name

    def progress(self, done_s: float, total_s: float | None) -> None:
        """Progress is no event."""

    def event(self, event: Event) -> None:
        """Print an event."""
        name = "".join(f"_{char.lower()}" if char.isupper() else char for char in type(event).__name__)[1:]
        fields = {key: value for key, value in asdict(event).items() if key != "token"}
        kind = {"session_started": "session", "error_event": "error"}.get(name, name)
        print(json.dumps({"type": kind, "file": self._name, **fields}, ensure_ascii=False), flush=True)

    def close(self) -> None:
        """Nothing is left open."""


Printer = TextPrinter | JsonPrinter


@dataclass(frozen=True, slots=True)
class Source:
    """Audio on its way to the server; `seconds` is None where its length is not known."""

    name: str
    audio: AsyncIterator[bytes]
    encoding: str
    rate: int
    seconds: float | None = None


async def _transcribe_all(args: argparse.Namespace, printer: Printer) -> int:
    from starling_cli.audio_files import AudioFileError

    status = 0
    for name in args.files:
        try:
            await _transcribe(name, args, printer)
        except AudioFileError as error:
            printer.close()
            complain(str(error))
            status = 1
        except (starling_client.StarlingError, ValueError) as error:
            printer.close()
            complain(explain(error, args.url))
            return 1
    return status


async def _transcribe(name: str, args: argparse.Namespace, printer: Printer) -> None:
    if name == STDIN:
        source = Source(name, _standard_input(args.rate * SAMPLE_BYTES[args.encoding]), args.encoding, args.rate)
        return await _run_session(source, args, printer)
    from starling_cli.audio_files import AudioFile

    file = AudioFile(Path(name))
    try:
        pieces = (piece.tobytes() for piece in file.pieces(FRAME_S if args.realtime else PIECE_S))
        audio = in_real_time(pieces, FRAME_S) if args.realtime else _as_fast_as_taken(pieces)
        await _run_session(Source(name, audio, "pcm_s16le", file.rate, file.seconds), args, printer)
    finally:
        file.close()


async def _run_session(source: Source, args: argparse.Namespace, printer: Printer) -> None:
    session = starling_client.connect(
        args.url,
        language=args.language,
        encoding=source.encoding,
        sample_rate=source.rate,
        punctuate=not args.no_punctuation,
        session_label=args.label or (None if source.name == STDIN else Path(source.name).name[:200]),
        api_key=args.api_key,
    )
    async with session:
        printer.begin(source.name)
        async for event in session.stream(source.audio):
            printer.event(event)
            printer.progress(_position(session, event), source.seconds)
    printer.close()


def _position(session: Session, event: Event) -> float:
    """Seconds of audio that are through: recognised, or known to be silent."""
    reached = session.acknowledged_samples / session.info.sample_rate
    return max(reached, event.end) if isinstance(event, Partial | Final) else reached


async def _as_fast_as_taken(pieces: Any) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _standard_input(bytes_per_second: int) -> AsyncIterator[bytes]:
    size = max(1, int(bytes_per_second * PIECE_S))
    while piece := await asyncio.to_thread(os.read, sys.stdin.fileno(), size):
        yield piece
