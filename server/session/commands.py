"""What a session wants done. The shell around it carries these out and reports back with the session's events."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.session.messages import Message
from session_store.base import Final, SessionState

NO_TOKENS: NDArray[np.int32] = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class DetectVoice:
    """Wants speech probabilities for `samples` (int16, k x 512 at 16 kHz); answered by `Session.voice`.

    `state` is the detector's state after the samples before, None at the start of a chain.
    """

    epoch: int
    state: object | None
    samples: NDArray[np.int16]


@dataclass(frozen=True, slots=True, eq=False)
class Decode:
    """Wants words for `audio` (int16 at 16 kHz); answered by `Session.hypothesis` or `Session.decode_failed`."""

    job: int
    audio: NDArray[np.int16]
    language: str
    draft: NDArray[np.int32] = field(default_factory=lambda: NO_TOKENS)
    is_partial: bool = False
    """Another window of the same speech follows soon: one try is enough."""


@dataclass(frozen=True, slots=True)
class WantPartial:
    """Wants a partial decoded when there is room: the shell then calls `Session.take_partial` for the newest window.

    `since` is the arrival time of the oldest sample that no partial has covered: who waits longest goes first.
    """

    since: float


@dataclass(frozen=True, slots=True)
class DropPartial:
    """A partial that waits or is under way is not wanted any more."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """The decode with this number is not wanted any more; it is not answered."""

    job: int


@dataclass(frozen=True, slots=True)
class Punctuate:
    """Wants marks and casing for a final's text; answered by `Session.punctuated`."""

    job: int
    text: str
    context: str
    language: str


@dataclass(frozen=True, slots=True)
class Store:
    """Wants the state stored, and the final with it; answered by `Session.stored` once both are safe."""

    ticket: int
    state: SessionState
    final: Final | None


@dataclass(frozen=True, slots=True)
class Send:
    """Wants a message sent.

    Attributes:
        message: for the client.
        since: arrival time of the sample that the latency clock of this message starts at, where it has one.
        speech_since: arrival time of the segment's first speech, with its first partial.
    """

    message: Message
    since: float | None = None
    speech_since: float | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The session has come to its end: delete its live state and close with 1000."""

    audio_seconds: float


Command = DetectVoice | Decode | WantPartial | DropPartial | Cancel | Punctuate | Store | Send | Finish
