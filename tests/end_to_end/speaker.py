"""A client of `/stream` that knows nothing but the protocol, to look at every message."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import soundfile
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from launcher.paths import SOURCE_ROOT

AUDIO = SOURCE_ROOT / "tests" / "data" / "audio"
DEADLINE_S = 90.0
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording that ships with the tests."""

    name: str
    samples: NDArray[np.int16]
    rate: int
    transcript: str

    def pcm(self) -> bytes:
        """As 16-bit PCM."""
        return self.samples.tobytes()

    def word_error_rate(self, text: str) -> float:
        """Without regard to case and marks."""
        return float(jiwer.wer(_plain(self.transcript), _plain(text)))


def clip(name: str) -> Clip:
    """The recording `name`, without its ending."""
    with (AUDIO / "transcripts.tsv").open(newline="") as file:
        [row] = [row for row in csv.DictReader(file, delimiter="\t") if Path(row["file"]).stem == name]
    samples, rate = soundfile.read(AUDIO / row["file"], dtype="int16")
    return Clip(name, samples, rate, row["transcript"])


def frames(data: bytes, size: int) -> Iterable[bytes]:
    """`data` cut into frames."""
    return (data[at : at + size] for at in range(0, len(data), size))


@dataclass(slots=True)
class Heard:
    """Everything a connection brought."""

    messages: list[Message]
    code: int | None = None
    reason: str = ""

    def of(self, kind: str) -> list[Message]:
        """The messages of one type."""
        return [message for message in self.messages if message["type"] == kind]

    @property
    def finals(self) -> list[Message]:
        return self.of("final")

    @property
    def text(self) -> str:
        return " ".join(final["text"] for final in self.finals)


class Speaker:
    """One open connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard = Heard([])

    async def say(self, *frames: bytes | str | Message) -> None:
        """Sends frames: bytes as they are, text as it is, dictionaries as JSON."""
        for frame in frames:
            await self.socket.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    async def next(self, kind: str | None = None) -> Message:
        """The next message, of one type if asked for; those before it are kept in `heard`."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                message: Message = json.loads(await self.socket.recv())
                self.heard.messages.append(message)
                if kind in (None, message["type"]):
                    return message

    async def listen(self) -> Heard:
        """Takes everything until the connection is closed."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                while True:
                    self.heard.messages.append(json.loads(await self.socket.recv()))
            except ConnectionClosed:
                self.heard.code = self.socket.close_code
                self.heard.reason = self.socket.close_reason or ""
        return self.heard


@asynccontextmanager
async def speaking(url: str, **options: Any) -> AsyncIterator[Speaker]:
    """Opens a connection."""
    async with connect(url, ping_interval=None, **options) as socket:
        yield Speaker(socket)


async def recite(url: str, data: bytes, *, frame: int = 6400, start: Message | None = None) -> Heard:
    """Sends `data` as fast as the server takes it, then `end`; everything that came back."""
    async with speaking(url) as speaker:
        listening = asyncio.create_task(speaker.listen())
        if start is not None:
            await speaker.say({"type": "start", **start})
        with suppress(ConnectionClosed):
            await speaker.say(*frames(data, frame), {"type": "end"})
        return await listening


def _plain(text: str) -> str:
    kept = "".join(c if c.isalnum() or c == "'" else " " for c in text.lower())
    return " ".join(kept.split())
