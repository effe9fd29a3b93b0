"""`starling live`: speak and read along."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import starling_client
from starling_cli.interrupt import interrupt_sets
from starling_cli.level import Level
from starling_cli.options import add_connection_options, complain, explain
from starling_cli.pacing import in_real_time
from starling_cli.screen import printable
from starling_client import ErrorEvent, Event, Final, Partial, Reconnected, Reconnecting

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

FRAME_S = 0.02
REFRESH_S = 0.1
TRAILING_SILENCE_S = 1.0


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "live",
        help="transcribe the microphone, or a file in real time",
        description="Transcribes the microphone, or a file at the speed of speech. What is finished scrolls up; below "
        "it stand the words of the moment, those that will not change any more brighter. Ctrl-C ends it, with the last "
        "words.",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="an audio file in place of the microphone")
    parser.add_argument(
        "--language", metavar="CODE", help="what is spoken, such as en, es or auto (default: the server's)"
    )
    parser.add_argument("--device", metavar="NAME", help="the input device, a number or a part of its name")
    add_connection_options(parser)


def run(args: argparse.Namespace) -> int:
    """Transcribe until the file or the user ends it."""
    from rich.console import Console

    from starling_cli.audio_files import AudioFileError

    console = Console(highlight=False)
    try:
        return asyncio.run(_live(args, console))
    except (starling_client.StarlingError, AudioFileError, ValueError) as error:
        complain(explain(error, args.url))
        return 1


class View:
    """What the lower part of the screen shows."""

    def __init__(self) -> None:
        """Begin with an open connection and silence."""
        self.partials: dict[int, Partial] = {}
        """Those whose finals are still to come, by seq: while one is being stored, the next is already spoken."""
        self.state = "connected"
        self.lag_s: float | None = None
        self.level = Level()

    def take(self, event: Event, sent_s: float) -> None:
        """Note an event; `sent_s` is how much audio was sent when it came."""
        match event:
            case Partial():
                self.partials[event.seq] = event
                self.lag_s = max(0.0, sent_s - event.end)
            case Final():
                self.partials = {seq: partial for seq, partial in self.partials.items() if seq > event.seq}
            case Reconnecting():
                self.state = f"connection lost, attempt {event.attempt}"
            case Reconnected():
                self.state = "connected"

    def __rich__(self) -> Text:
        """Return the words of the moment and the state below them."""
        from rich.text import Text

        text = Text()
        for number, partial in enumerate(self.partials.values()):
            text.append(" " if number else "")
            text.append(printable(partial.stable_text), "default")
            text.append(printable(partial.unstable_text), "bright_black")
        lag = "" if self.lag_s is None else f"   lag {self.lag_s:.1f} s"
        text.append(f"\n{self.level.bar()}   {self.state}{lag}", "green" if self.state == "connected" else "yellow")
        return text


async def _live(args: argparse.Namespace, console: Console) -> int:
    from rich.live import Live

    stop = asyncio.Event()
    view = View()
    rate, audio = _source(args)
    session = starling_client.connect(
        args.url, language=args.language, sample_rate=rate, session_label="live", api_key=args.api_key
    )
    with interrupt_sets(stop):
        async with session:
            with Live(view, console=console, refresh_per_second=1 / REFRESH_S, transient=True) as screen:
                async for event in session.stream(_until(stop, _metered(audio, view.level))):
                    view.take(event, session.written_samples / rate)
                    _print(event, console)
                    screen.refresh()
    return 0


def _print(event: Event, console: Console) -> None:
    if isinstance(event, Final) and event.text:
        console.print(printable(event.text), markup=False)
    elif isinstance(event, ErrorEvent):
        console.print(printable(event.message), style="yellow", markup=False)


def _source(args: argparse.Namespace) -> tuple[int, AsyncIterator[bytes]]:
    if args.file is None:
        from starling_client.microphone import load_sounddevice, microphone

        load_sounddevice()
        device = int(args.device) if args.device and args.device.isdecimal() else args.device
        return 16000, microphone(16000, device=device)
    from starling_cli.audio_files import AudioFile

    file = AudioFile(Path(args.file))

    def pieces() -> Iterator[bytes]:
        for piece in file.pieces(FRAME_S):
            yield piece.tobytes()
        silence = bytes(2 * round(file.rate * FRAME_S))
        yield from (silence for _ in range(round(TRAILING_SILENCE_S / FRAME_S)))

    return file.rate, in_real_time(pieces(), FRAME_S)


async def _metered(audio: AsyncIterator[bytes], level: Level) -> AsyncIterator[bytes]:
    async for piece in audio:
        level.add(piece, time.monotonic())
        yield piece


async def _until(stop: asyncio.Event, audio: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield audio until `stop` is set, also while no audio comes."""
    stopped = asyncio.ensure_future(stop.wait())
    try:
        while True:
            piece = asyncio.ensure_future(anext(audio, None))
            await asyncio.wait({piece, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                piece.cancel()
                await asyncio.gather(piece, return_exceptions=True)
                return
            data = piece.result()
            if data is None:
                return
            yield data
    finally:
        stopped.cancel()
        await audio.aclose()  # type: ignore[attr-defined]
