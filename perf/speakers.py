"""Paced speakers: each sends one track over one connection at the speed of speech and keeps what comes back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from perf.clocks import Clocks, Flicker, Timeline, read_clocks, read_flicker
from perf.lean_client import BINARY, LeanSocket, RefusedError, client_frame, open_socket, text_frame
from perf.track import Track
from perf.wer import WordErrors, word_errors
from starling_client import Event, Final, Partial
from starling_client import messages as client_messages

TRAILING_SILENCE_S = 1.5
"""Sent behind a track, so that its last segment ends by itself."""
LAST_WORDS_S = 60.0
"""How long the server may take from the end of the audio to `done`."""


@dataclass(slots=True)
class Heard:
    """What one speaker was told, and when it said what."""

    track: Track
    messages: list[tuple[float, bytes]] = field(default_factory=list)
    frame_s: float = 0.02
    sent_at: list[float] = field(default_factory=list)
    """When each frame was handed to the socket."""
    late_s: list[float] = field(default_factory=list)
    """How late that was: the generator's own fault."""
    trouble: str = ""
    """What went wrong, in a few words; empty for an undisturbed session."""
    refused: int = 0
    """Status of a refusal before the upgrade; 0 for none."""

    def events(self) -> list[tuple[float, Event]]:
        """Partials and finals with the times at which they came."""
        parsed = ((at, client_messages.parse(raw.decode())) for at, raw in self.messages)
        return [(at, message) for at, message in parsed if isinstance(message, Partial | Final)]

    def timeline(self) -> Timeline:
        """When each sample was handed to the socket."""
        timeline = Timeline()
        for number, at in enumerate(self.sent_at):
            timeline.sent((number + 1) * self.frame_s, at)
        return timeline

    def clocks(self) -> Clocks:
        """The clocks that a client can read."""
        return read_clocks(self.events(), self.timeline(), self.track.spans) if self.sent_at else Clocks()

    def flicker(self) -> Flicker:
        """How restless the partials were."""
        return read_flicker(event for _, event in self.events())

    def word_errors(self) -> WordErrors:
        """Against everything that is said in the track."""
        text = " ".join(event.text for _, event in self.events() if isinstance(event, Final))
        return word_errors(self.track.transcript, text, self.track.language)


class Speaker:
    """Sends one track. `connect`, then `start_at`, then `finished`."""

    def __init__(self, track: Track, frames: Sequence[bytes], frame_s: float) -> None:
        """`frames` are those of the track, as WebSocket frames, with the silence behind them."""
        self.heard = Heard(track, frame_s=frame_s)
        self._frames = frames
        self._frame_s = frame_s
        self._loop = asyncio.get_running_loop()
        self._socket: LeanSocket | None = None
        self._position = 0
        self._begun_at = 0.0
        self._said: asyncio.Future[None] = self._loop.create_future()

    async def connect(self, url: str, api_key: str | None, label: str) -> bool:
        """Opens the session; False where the server would not have it, which `heard` then tells."""
        try:
            self._socket = await open_socket(url, api_key)
        except RefusedError as refusal:
            self.heard.refused, self.heard.trouble = refusal.status, str(refusal)
            return False
        except (OSError, TimeoutError) as error:
            self.heard.trouble = f"no connection: {error!r}"
            return False
        track = self.heard.track
        start = {"type": "start", "language": track.language, "sample_rate": track.rate, "session_label": label}
        self._socket.write(text_frame(start))
        return True

    def start_at(self, when: float) -> None:
        """Begins to speak at a time of the loop's clock; the first frame is whole one frame later."""
        self._begun_at = when
        self._loop.call_at(when + self._frame_s, self._tick)

    def _tick(self) -> None:
        assert self._socket is not None
        now = self._loop.time()
        due = self._begun_at + (self._position + 1) * self._frame_s
        # A microphone's frames pile up while nobody fetches them: those that are due all go at once.
        while self._position < len(self._frames) and due <= now + 0.0005:
            self._socket.write(self._frames[self._position])
            self.heard.sent_at.append(time.monotonic())
            self.heard.late_s.append(now - due)
            self._position += 1
            due += self._frame_s
        if self._socket.closed.done() or self._position == len(self._frames):
            if not self._said.done():
                self._said.set_result(None)
            return
        self._loop.call_at(due, self._tick)

    async def finished(self) -> Heard:
        """Waits until all is said and the server has told the rest, then returns it."""
        socket = self._socket
        assert socket is not None
        await self._said
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                socket.write(text_frame({"type": "end"}))
                await socket.closed
        return self._close(socket)

    def _close(self, socket: LeanSocket) -> Heard:
        heard = self.heard
        heard.messages = socket.received
        errors = [message for message in map(_loads, heard.messages) if message.get("type") == "error"]
        if errors:
            heard.trouble = f"error {errors[0]['code']}: {errors[0]['message']}"
        elif not socket.closed.done():
            heard.trouble = f"no end of the session within {LAST_WORDS_S:.0f} s"
        elif socket.close_code != 1000:
            heard.trouble = f"closed with {socket.close_code}"
        socket.abort()
        return heard


def make_frames(track: Track, frame_s: float, trailing_s: float = TRAILING_SILENCE_S) -> list[bytes]:
    """A track as WebSocket frames, with silence behind it."""
    spoken = [client_frame(BINARY, frame.tobytes()) for frame in track.frames(frame_s)]
    silence = client_frame(BINARY, bytes(2 * round(frame_s * track.rate)))
    return spoken + [silence] * round(trailing_s / frame_s)


def make_all_frames(tracks: Sequence[Track], frame_s: float) -> list[list[bytes]]:
    """`make_frames` of each track; the tracks are made in turns of a few, so frames are shared where tracks are."""
    made = {id(track): make_frames(track, frame_s) for track in {id(track): track for track in tracks}.values()}
    return [made[id(track)] for track in tracks]


async def speak_together(
    speakers: Sequence[Speaker],
    seconds: float,
    on_second: Callable[[float], None] | None = None,
    *,
    spread_s: float = 0.0,
) -> None:
    """Starts all speakers, spread evenly over `spread_s` and a frame, and returns when `seconds` have passed."""
    loop = asyncio.get_running_loop()
    begin = loop.time() + 0.05
    for number, speaker in enumerate(speakers):
        speaker.start_at(begin + number / max(1, len(speakers)) * (spread_s + speaker.heard.frame_s))
    while (left := begin + seconds - loop.time()) > 0:
        await asyncio.sleep(min(1.0, left))
        if on_second is not None:
            on_second(loop.time() - begin)


def _loads(item: tuple[float, bytes]) -> dict[str, object]:
    message: dict[str, object] = json.loads(item[1])
    return message
