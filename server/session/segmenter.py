"""From speech probabilities to segments.

The thresholds with hysteresis follow Silero's own `VADIterator`: silence begins below the lower threshold and is only
called off at the upper one. What is added here: the onset needs several windows in a row, and a short silence is
reported ahead of the endpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.session.settings import VAD_WINDOW, Policy

FORCED_ONSET_WINDOWS = 2
"""Speech in a row that counts where no more audio follows: a last syllable, and no click."""

RESTLESS = 4
"""Sound that is no speech may go on for ever: after this many idle lengths the chain starts afresh even within it."""


@dataclass(frozen=True, slots=True)
class Onset:
    """A segment opens. Positions count 16 kHz samples since the chain's start."""

    start: int
    speech: int
    """Start of the first window that was speech."""
    heard: int
    """End of that first window."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """Short silence: if nothing follows, the segment's audio ends at `end` and its speech at `speech_end`."""

    end: int
    speech_end: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """Speech again before the endpoint."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The segment is over; its audio ends at `end`, its speech at `speech_end`."""

    end: int
    speech_end: int


@dataclass(frozen=True, slots=True)
class Limit:
    """The segment has reached its length limit and has to be cut."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing but silence for long: the chain may start afresh at `at`."""

    at: int


SegmenterEvent = Onset | Quiet | Resumed | Endpoint | Limit | Idle


class Segmenter:
    """One chain's segment boundaries: a pure function of the probabilities since the chain's start.

    After `Endpoint`, `Limit` or `Idle` the chain starts afresh, with a new segmenter.
    """

    __slots__ = (
        "_calm_since",
        "_endpoint",
        "_limit",
        "_long",
        "_policy",
        "_quiet_end",
        "_run",
        "_short_endpoint",
        "_silence_from",
        "_start",
        "_window",
    )

    def __init__(self, policy: Policy, endpoint_silence_ms: int) -> None:
        self._policy = policy
        # The endpoint must not come before the early decode that it relies on.
        self._endpoint = max(-(-endpoint_silence_ms * 16 // VAD_WINDOW), policy.quiet_windows)
        self._short_endpoint = max(self._endpoint * 2 // 5, policy.quiet_windows)
        self._long = int(policy.long_segment_s * 16000)
        self.limit(policy.max_segment_s)
        self._window = 0
        self._run = 0
        self._calm_since = 0
        self._start = -1
        self._silence_from = -1
        self._quiet_end = -1

    def limit(self, seconds: float) -> None:
        """Cuts the open segment when it gets this long."""
        self._limit = int(seconds * 16000)

    @property
    def _enough(self) -> int:
        """Windows of silence that end the open segment."""
        is_long = self._window * VAD_WINDOW - self._start >= self._long
        return self._short_endpoint if is_long else self._endpoint

    @property
    def in_speech(self) -> bool:
        """A segment is open."""
        return self._start >= 0

    @property
    def is_quiet(self) -> bool:
        """A segment is open and in a short silence."""
        return self._quiet_end >= 0

    @property
    def quiet_end(self) -> int | None:
        """Where the segment's audio ends if the short silence it is in goes on; None while there is none."""
        return self._quiet_end if self._quiet_end >= 0 else None

    @property
    def speech_end(self) -> int:
        """End of the speech heard so far in the open segment, in samples."""
        return (self._silence_from if self._silence_from >= 0 else self._window) * VAD_WINDOW

    def step(self, probability: float) -> SegmenterEvent | None:
        """Takes the next window's probability; at most one thing happens in a window."""
        self._window += 1
        if self._start < 0:
            return self._before_speech(probability)
        return self._within_segment(probability)

    def force(self) -> Onset | None:
        """The audio ends here: opens a segment for speech that had just begun, if there is any."""
        return self._onset() if self._start < 0 and self._run >= FORCED_ONSET_WINDOWS else None

    def _onset(self) -> Onset:
        first = self._window - self._run
        self._start = max(0, first - self._policy.pre_roll_windows) * VAD_WINDOW
        return Onset(self._start, first * VAD_WINDOW, (first + 1) * VAD_WINDOW)

    def _before_speech(self, probability: float) -> SegmenterEvent | None:
        policy = self._policy
        if probability >= policy.idle_threshold:
            self._calm_since = self._window
        if probability >= policy.speech_threshold:
            self._run += 1
            if self._run >= policy.onset_windows:
                return self._onset()
            return None
        self._run = 0
        is_calm = self._window - self._calm_since >= policy.pre_roll_windows
        if self._window >= policy.idle_windows * (1 if is_calm else RESTLESS):
            return Idle((self._window - policy.pre_roll_windows) * VAD_WINDOW)
        return None

    def _within_segment(self, probability: float) -> SegmenterEvent | None:
        policy = self._policy
        resumed = False
        if self._silence_from < 0:
            if probability < policy.silence_threshold:
                self._silence_from = self._window - 1
        elif probability >= policy.speech_threshold:
            resumed = self._quiet_end >= 0
            self._silence_from = self._quiet_end = -1
        if self._silence_from >= 0:
            silence = self._window - self._silence_from
            if silence >= policy.quiet_windows and self._quiet_end < 0:
                self._quiet_end = self._window * VAD_WINDOW
                if silence < self._enough:
                    return Quiet(self._quiet_end, self.speech_end)
            if silence >= self._enough:
                return Endpoint(self._quiet_end, self.speech_end)
        if resumed:
            return Resumed()
        if self._window * VAD_WINDOW - self._start >= self._limit:
            return Endpoint(self._quiet_end, self.speech_end) if self.is_quiet else Limit()
        return None
