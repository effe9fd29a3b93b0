"""One live session: events in, commands out.

Audio, probabilities, hypotheses and control messages come in as method calls; each returns the commands that the
shell has to carry out. Nothing here waits, reads a clock or knows what a socket is: time comes as `now`, in seconds
of any monotonic clock.

Here is told what follows from what. `Chain` and `Segmenter` make segments of the audio, `Controls` holds what the
client has said about it, `Decoding` has the windows decoded, and `Promises` brings out what is owed in its order.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from server.audio.codec import make_decoder
from server.session.arrivals import Arrivals
from server.session.chain import Chain
from server.session.commands import Command, Decode, Send
from server.session.controls import MAX_MARKS, Controls, TooManyMarksError
from server.session.decoding import Decoding
from server.session.marks import EndMark, Fence, FinalizeMark, GapMark, LanguageMark
from server.session.messages import Error, Message, SpeechEnded, SpeechStarted
from server.session.promises import OwedAck, OwedDone, OwedFinal, OwedFinalized, Promise, Promises
from server.session.segment import Hypothesis, Segment, quietest
from server.session.segmenter import Endpoint, Idle, Onset, Quiet, Resumed, Segmenter, SegmenterEvent
from server.session.settings import RATE, VAD_WINDOW, Policy, SessionSettings
from session_store.base import SessionState

NOTHING = Hypothesis("", np.empty(0, np.int32), 0.0, "")


class Session:
    """The rules of one session.

    The shell owes an answer to every `DetectVoice`, `Decode`, `Punctuate` and `Store`, in any order, unless it was
    cancelled; answers to what is no longer wanted are ignored.
    """

    def __init__(
        self,
        state: SessionState,
        settings: SessionSettings,
        policy: Policy,
        *,
        policies: Mapping[str, Policy] = MappingProxyType({}),
        from_offset: int | None = None,
    ) -> None:
        """Begins, or continues from what the store knows.

        `policies` are for languages whose segments and windows are cut otherwise, as their model is slower.

        `from_offset` is the offset of the first sample that will come; beyond `state.acked` the audio between is
        a gap.
        """
        self._policy = policy
        self._policies = policies
        origin = max(state.acked, from_offset or 0)
        self._skip = max(0, state.acked - from_offset) if from_offset is not None else 0
        """Samples that are to come and were heard before."""
        self._out: list[Command] = []
        self._decoder = make_decoder(settings.encoding)
        self._chain = Chain(settings.sample_rate, origin, policy.vad_group)
        self._arrivals = Arrivals()
        self._segmenter = Segmenter(policy, settings.endpoint_silence_ms)
        self._open: Segment | None = None
        self._controls = Controls(settings, state.marks, origin)
        self._decoding = Decoding(self._chain, self._arrivals, self._controls, policy.detect_s, self._out)
        self._promises = Promises(state, origin, self._controls, self._out)
        self.is_ending = False

    # --- what the shell may ask

    @property
    def settings(self) -> SessionSettings:
        """What holds at the acknowledged offset."""
        return self._controls.settings

    @property
    def next_seq(self) -> int:
        """The seq of the next final that is to be stored."""
        return self._promises.next_seq

    @property
    def received(self) -> int:
        """Input offset of the next sample wanted."""
        return self._chain.received

    @property
    def audio_seconds(self) -> float:
        """Length of the session so far."""
        return self.received / self.settings.sample_rate

    @property
    def wants_audio(self) -> bool:
        """False while so much audio is waiting that the client should be held back by not reading."""
        ahead = self._chain.received - self._chain.input_offset(self._chain.detected)
        if ahead > self._policy.max_ahead_s * self.settings.sample_rate:
            return False
        return self._promises.backlog_s < self._policy.max_backlog_s

    @property
    def language(self) -> str:
        """The language of the open segment, or of the next one as far as is known."""
        return self._open.language if self._open else self.settings.language

    @property
    def owes(self) -> bool:
        """A final or another promise is due."""
        return self._promises.owes

    # --- events

    def audio(self, data: bytes, now: float) -> list[Command]:
        """Takes a frame of encoded audio that arrived at `now`. After `end` it is ignored."""
        if self.is_ending:
            return []
        samples = self._decoder.decode(data)
        if self._skip > 0:
            dropped = min(self._skip, len(samples))
            self._skip -= dropped
            samples = samples[dropped:]
        if len(samples):
            self._chain.append(samples)
            self._arrivals.add(self._chain.received, now)
            self._advance(now)
        return self._take_out()

    def voice(self, epoch: int, probabilities: list[float], state: object, now: float) -> list[Command]:
        """Takes the answer to a `DetectVoice`; one from before the chain's last restart is ignored."""
        if epoch != self._chain.epoch:
            return []
        self._chain.voice(state)
        for probability in probabilities:
            self._chain.detected += VAD_WINDOW
            event = self._segmenter.step(probability)
            if event is not None:
                self._on_speech(event, now)
                if self._chain.epoch != epoch:
                    break
        self._advance(now)
        self._want_partial(now)
        return self._take_out()

    def take_partial(self, now: float) -> Decode | None:
        """The newest window for the partial that was wanted; None if nothing is to be decoded any more."""
        return self._decoding.take_partial(self._shown_segment)

    def hypothesis(self, job: int, hypothesis: Hypothesis, now: float) -> list[Command]:
        """Takes the answer to a `Decode`."""
        taken = self._decoding.take(job, hypothesis)
        if taken is None:
            return []
        segment, decode = taken
        if segment is self._open:
            self._decoding.show(segment, decode, self._promises.open_seq, now)
            self._want_partial(now)
        else:
            self._settle(now)
        return self._take_out()

    def decode_failed(self, job: int, reason: str, now: float) -> list[Command]:
        """Takes the news that a `Decode` cannot be had, ever. A lost partial is replaced by the next one; a lost
        final is told to the client."""
        lost = self._decoding.lose(job)
        if lost is None:
            return []
        segment, decode = lost
        # What was decoded ahead of the endpoint is tried once more when the endpoint comes.
        if segment is not self._open:
            segment.final = (decode.end, NOTHING)
            at = f"{segment.start_s:.2f} s to {segment.end_s:.2f} s"
            self._send(Error(1011, f"the speech from {at} could not be decoded: {reason}", recoverable=True))
            self._settle(now)
        return self._take_out()

    def punctuated(self, number: int, text: str | None, now: float) -> list[Command]:
        """Takes the answer to a `Punctuate`; None if it failed, which costs the final its marks."""
        self._promises.punctuated(number, text)
        return self._take_out()

    def stored(self, ticket: int, now: float) -> list[Command]:
        """Takes the news that a `Store` is safe."""
        if self._promises.stored(ticket):
            self._settle(now)
        return self._take_out()

    def finalize(self, identifier: str | None, now: float) -> list[Command]:
        """Ends the open segment after the audio received so far. After `end` it is ignored."""
        if self.is_ending:
            return []
        if self._promises.answers >= MAX_MARKS:
            raise TooManyMarksError
        mark = FinalizeMark(self.received - self._skip, identifier)
        if self._skip == 0:
            if self._controls.finalize(mark):
                self._promises.store_state()
            self._advance(now)
        elif not self._controls.is_ahead(mark):
            # Said again with audio that was heard before: the segment ended there then, the answer was lost.
            self._owe(OwedFinalized(identifier, mark.offset), now)
        return self._take_out()

    def set_language(self, language: str) -> list[Command]:
        """Decodes segments whose speech begins from here on in `language`. After `end` it is ignored."""
        if self.is_ending or self._skip:
            # Said again with audio that was heard before: it has taken effect, and what came later too.
            return []
        if self._controls.set_language(LanguageMark(self.received, language)):
            self._promises.store_state()
        return self._take_out()

    def end(self, now: float) -> list[Command]:
        """No more audio comes."""
        if self.is_ending:
            return []
        self.is_ending = True
        self._controls.put_up(EndMark(self.received))
        self._advance(now)
        return self._take_out()

    def reattach(self, from_offset: int, now: float) -> list[Command]:
        """Goes on with a new connection whose first sample is `from_offset`: an overlap is dropped, a gap ends the
        open segment."""
        self._decoder.reset()
        self._skip = max(0, self.received - from_offset)
        if self._open is not None:
            self._open.shown = ""
        if from_offset > self.received and not self.is_ending:
            gap = GapMark(self.received, from_offset)
            self._chain.skip_to(from_offset)
            self._controls.put_up(gap)
            self._advance(now)
        if self._promises.done is not None:
            self._send(self._promises.done)
        return self._take_out()

    def state(self) -> SessionState:
        """What a server must know to go on from where the newest final ends, stored or about to be."""
        return self._promises.state()

    # --- the chain

    def _advance(self, now: float) -> None:
        """Moves audio on as far as voice activity and the next fence allow."""
        while True:
            fence = self._controls.fence
            self._chain.feed(fence.offset if fence else None)
            request = self._chain.detect(everything=fence is not None)
            if request is not None:
                self._out.append(request)
            if fence is None or self._chain.fed < fence.offset or self._chain.is_detecting:
                return
            self._controls.take_down()
            self._pass(fence, now)

    def _pass(self, fence: Fence, now: float) -> None:
        """Everything before the fence has been judged: does what it asks for."""
        if self._open is None:
            onset = self._segmenter.force()
            if onset is not None:
                self._on_onset(onset)
        if self._open is not None:
            quiet_end = self._segmenter.quiet_end
            self._chain.flush()
            end = self._chain.audio_end if quiet_end is None else quiet_end
            self._close(end, min(self._segmenter.speech_end, end), self._chain.fed, now)
        if isinstance(fence, FinalizeMark):
            self._owe(OwedFinalized(fence.id, fence.offset), now)
        elif isinstance(fence, GapMark):
            self._restart(fence.end)
            self._owe(OwedAck(fence.end), now)
        else:
            self._owe(OwedAck(fence.offset), now)
            self._owe(OwedDone(fence.offset, self.audio_seconds), now)

    def _on_speech(self, event: SegmenterEvent, now: float) -> None:
        if isinstance(event, Onset):
            self._on_onset(event)
            return
        if isinstance(event, Idle):
            at = self._chain.input_offset(event.at)
            self._restart(at)
            self._owe(OwedAck(at), now)
            return
        segment = self._open
        assert segment is not None
        if isinstance(event, Quiet):
            self._decoding.foresee(segment, event.end, is_first=not self._promises.owes_final)
        elif isinstance(event, Resumed):
            segment.resume()
        elif isinstance(event, Endpoint):
            self._close(event.end, event.speech_end, self._chain.input_offset(event.end), now)
        else:
            end = self._chain.detected
            search = max(segment.start, end - int(self._policy.cut_search_s * RATE))
            cut = search + quietest(self._chain.audio(search, end))
            self._close(cut, cut, self._chain.input_offset(cut), now)
            segment.speech_arrival = None  # nobody stopped speaking: there is no end to measure from

    def _on_onset(self, event: Onset) -> None:
        language = self._controls.settings_before(self._chain.input_offset(event.heard)).language
        policy = self._policies.get(language, self._policy)
        self._segmenter.limit(policy.max_segment_s)
        self._open = Segment(
            policy,
            start=event.start,
            speech=event.speech,
            language=language,
            start_s=self._chain.seconds(event.start),
            unheard=self._arrivals.uncovered(self._chain.input_offset(event.speech)),
        )
        self._send(SpeechStarted(self._chain.seconds(event.speech)))

    def _close(self, end: int, speech_end: int, restart: int, now: float) -> None:
        """Ends the open segment at `end` and starts the chain afresh at the input offset `restart`."""
        segment = self._open
        assert segment is not None
        self._open = None
        segment.restart = restart
        segment.end_s = self._chain.seconds(min(speech_end, end))
        segment.speech_arrival = self._arrivals.at(self._chain.input_offset(speech_end) - 1, now)
        self._send(SpeechEnded(segment.end_s))
        waiting = self._decoding.close(segment, end, is_first=not self._promises.owes_final)
        self._restart(restart)
        self._owe(OwedFinal(segment, (end - segment.start) / RATE, waiting), now)

    def _restart(self, at: int) -> None:
        self._chain.restart(at)
        self._segmenter = Segmenter(self._policy, self.settings.endpoint_silence_ms)

    # --- partials

    @property
    def _shown_segment(self) -> Segment | None:
        """The open segment, where partials of it can be had: not in its silences, nor before its seq is known."""
        if self._open is None or self._segmenter.is_quiet or self._promises.open_seq is None:
            return None
        return self._open

    def _want_partial(self, now: float) -> None:
        segment = self._shown_segment
        if segment is not None:
            self._decoding.want_partial(segment, now)

    # --- promises

    def _owe(self, promise: Promise, now: float) -> None:
        self._promises.owe(promise)
        self._settle(now)

    def _settle(self, now: float) -> None:
        """Keeps the promises that can be kept; partials that hung on a final may be wanted then."""
        self._promises.settle()
        if not self.owes:
            self._want_partial(now)

    def _send(self, message: Message) -> None:
        self._out.append(Send(message))

    def _take_out(self) -> list[Command]:
        out = self._out.copy()
        self._out.clear()
        return out
