"""What a client may choose for its session, and what the operator chooses for all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from server.audio.codec import ENCODINGS, make_decoder

VAD_WINDOW = 512
"""Samples at 16 kHz that one speech probability covers: 32 ms."""

RATE = 16000
"""The rate that voice activity and every model hear."""

AUTO = "auto"
"""The language of sessions that leave it to the model."""

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 8000, 48000
MIN_ENDPOINT_MS, MAX_ENDPOINT_MS = 200, 3000


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """One session's choices; the field names are the protocol's.

    `detected` is not chosen: it is the language that was found in a session whose language is ``auto``.
    """

    language: str = "en"
    encoding: str = "pcm_s16le"
    sample_rate: int = RATE
    partials: bool = True
    punctuate: bool = True
    endpoint_silence_ms: int = 500
    session_label: str = ""
    detected: str = ""

    def __post_init__(self) -> None:
        """Refuses what would turn speech into noise; callers have checked the client's values before."""
        if self.encoding not in ENCODINGS:
            raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, not {self.encoding!r}")
        if not MIN_SAMPLE_RATE <= self.sample_rate <= MAX_SAMPLE_RATE:
            raise ValueError(f"sample_rate must be {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}, not {self.sample_rate}")

    @property
    def bytes_per_second(self) -> int:
        """Of encoded audio."""
        return self.sample_rate * make_decoder(self.encoding).sample_width

    def to_json(self) -> dict[str, Any]:
        """Plain values for the session store."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SessionSettings:
        """The settings that `to_json` gave; names of a newer version are ignored."""
        return cls(**{name: value for name, value in values.items() if name in cls.__slots__})

    def with_language(self, language: str) -> SessionSettings:
        """The same settings in another language."""
        return replace(self, language=language, detected="")


@dataclass(frozen=True, slots=True)
class Policy:
    """How speech is cut into segments and windows. Lengths are in VAD windows of 32 ms unless named otherwise.

    Attributes:
        speech_threshold: probability from which a window counts as speech.
        silence_threshold: probability below which silence begins; between the two nothing changes.
        onset_windows: speech in a row that opens a segment.
        pre_roll_windows: audio kept before the onset, so that soft first consonants are in the segment.
        quiet_windows: silence after which the segment's final is decoded ahead of the endpoint.
        long_segment_s: from this length on a segment ends at a shorter silence, two fifths of the endpoint's.
        max_segment_s: a segment is cut at its quietest recent point when it gets this long.
        cut_search_s: how far back that point is looked for.
        idle_windows: without speech for this long, the chain starts afresh and the silence is acknowledged.
        idle_threshold: ... but only where no window of the pre-roll exceeds this probability.
        hop_windows: new speech between two partials.
        first_hop_windows: speech before the first partial of a segment.
        detect_s: speech from which a model tells languages apart reliably.
        trim_after_s: a partial's window longer than this is trimmed at its quietest inner point.
        trim_keep_s: audio kept behind such a point.
        sure_confidence: a word behind the stable ones is shown from this confidence on.
        sure_last_confidence: ... and the last word of a window from this one on, since it may be half a word.
        hold_back_words: last words not shown while a model gives no confidences.
        vad_group: windows collected before voice activity is asked for.
        max_backlog_s: audio that may wait for its final before the client is held back by not reading.
        max_ahead_s: audio that may wait for voice activity before the client is held back.
    """

    speech_threshold: float = 0.5
    silence_threshold: float = 0.35
    onset_windows: int = 3
    pre_roll_windows: int = 10
    quiet_windows: int = 6
    long_segment_s: float = 10.0
    max_segment_s: float = 20.0
    cut_search_s: float = 5.0
    idle_windows: int = 125
    idle_threshold: float = 0.2
    hop_windows: int = 8
    first_hop_windows: int = 12
    detect_s: float = 3.0
    trim_after_s: float = 4.5
    trim_keep_s: float = 1.5
    sure_confidence: float = 0.7
    sure_last_confidence: float = 0.94
    hold_back_words: int = 2
    vad_group: int = 1
    max_backlog_s: float = 60.0
    max_ahead_s: float = 4.0
