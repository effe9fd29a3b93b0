"""The audio of a session since the last point from which a server could start afresh.

At such a point resampler, voice activity and segmenter begin again from nothing, in every run and not only after a
resume: so a server that knows nothing but the acknowledged offset comes to the same segments.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from server.audio.resample import Resampler
from server.audio.ring import SampleBuffer
from server.session.commands import DetectVoice
from server.session.settings import RATE, VAD_WINDOW

HORIZON_S = 8.0
"""Input kept behind what voice activity has judged: further back no restart point can lie."""


class Chain:
    """Input samples in; 16 kHz samples, counted from the chain's origin, and windows for voice activity out."""

    def __init__(self, rate: int, origin: int, group: int) -> None:
        """Starts at input offset `origin`; asks for voice activity `group` windows at a time."""
        self._rate = rate
        self._group = group
        self._input = SampleBuffer(origin)
        self._behind_gaps: deque[SampleBuffer] = deque()
        self.epoch = 0
        self._begin(origin)

    def _begin(self, origin: int) -> None:
        self.origin = origin
        self._fed = origin
        self._resampler = None if self._rate == RATE else Resampler(self._rate)
        self._resampled = SampleBuffer(0)
        self._vad_state: object | None = None
        self._vad_sent = 0
        self.detected = 0
        self.flushed = False

    @property
    def received(self) -> int:
        """Input offset after the last sample received."""
        return self._newest.end

    @property
    def _newest(self) -> SampleBuffer:
        return self._behind_gaps[-1] if self._behind_gaps else self._input

    @property
    def fed(self) -> int:
        """Input offset after the last sample that has entered the chain."""
        return self._fed

    @property
    def audio_end(self) -> int:
        """16 kHz samples available since the origin."""
        return self._fed - self.origin if self._resampler is None else self._resampled.end

    @property
    def is_detecting(self) -> bool:
        """Voice activity has been asked for and has not answered."""
        return self._vad_sent > self.detected

    def append(self, samples: NDArray[np.int16]) -> None:
        """Takes samples at the input rate; they enter the chain with `feed`."""
        self._newest.append(samples)

    def skip_to(self, offset: int) -> None:
        """The samples from `received` to `offset` are missing: those behind enter once the chain restarts there."""
        self._behind_gaps.append(SampleBuffer(offset))

    def feed(self, limit: int | None) -> None:
        """Lets what was received into the chain, up to the input offset `limit`."""
        stop = self._input.end if limit is None else min(limit, self._input.end)
        if stop <= self._fed:
            return
        if self._resampler is not None:
            self._resampled.append(self._resampler.process(self._input.view(self._fed, stop)))
            judged = self.input_offset(self.detected)
            self._input.drop_before(max(self.origin, judged - int(HORIZON_S * self._rate)))
        self._fed = stop

    def flush(self) -> None:
        """Brings out what the resampler still holds; after this the chain can only restart."""
        if not self.flushed and self._resampler is not None:
            self._resampled.append(self._resampler.flush())
        self.flushed = True

    def detect(self, *, everything: bool) -> DetectVoice | None:
        """The next windows for voice activity, one request at a time; fewer than a group only if `everything`."""
        ready = (self.audio_end - self._vad_sent) // VAD_WINDOW
        if self.is_detecting or self.flushed or ready < (1 if everything else self._group):
            return None
        start, self._vad_sent = self._vad_sent, self._vad_sent + ready * VAD_WINDOW
        return DetectVoice(self.epoch, self._vad_state, self.audio(start, self._vad_sent))

    def voice(self, state: object) -> None:
        """The request is answered; `state` goes with the next one."""
        self._vad_state = state

    def audio(self, start: int, stop: int) -> NDArray[np.int16]:
        """16 kHz samples between two positions since the origin."""
        if self._resampler is None:
            return self._input.view(self.origin + start, self.origin + stop)
        return self._resampled.view(start, stop)

    def input_offset(self, position: int) -> int:
        """The input offset of a 16 kHz position, never beyond what has entered the chain."""
        return min(self._fed, self.origin + position * self._rate // RATE)

    def seconds(self, position: int) -> float:
        """Session time of a 16 kHz position."""
        return self.origin / self._rate + position / RATE

    def restart(self, at: int) -> None:
        """Starts afresh at input offset `at`, which lies in the audio kept or at the end of the next gap."""
        if at > self._input.end:
            self._input = self._behind_gaps.popleft()
        else:
            self._input.drop_before(at)
        self.epoch += 1
        self._begin(at)
