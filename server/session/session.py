"""One live session: events in, commands out.

Audio, probabilities, hypotheses and control messages come in as method calls; each returns the commands that the
shell has to carry out. Nothing here waits, reads a clock or knows what a socket is: time comes as `now`, in seconds
of any monotonic clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from server.audio.codec import make_decoder
from server.session.arrivals import Arrivals
from server.session.chain import Chain
from server.session.commands import (
    Cancel,
    Command,
    Decode,
    DropPartial,
    Finish,
    Punctuate,
    Send,
    Store,
    WantPartial,
)
from server.session.controls import MAX_MARKS, Controls, TooManyMarksError
from server.session.marks import EndMark, Fence, FinalizeMark, GapMark, LanguageMark
from server.session.messages import Ack, Done, Error, Finalized, Partial, SpeechEnded, SpeechStarted
from server.session.promises import OwedAck, OwedDone, OwedFinal, OwedFinalized, Promise, Stage
from server.session.segment import Hypothesis, Job, Kind, Segment, quietest
from server.session.segmenter import Endpoint, Idle, Onset, Quiet, Resumed, Segmenter, SegmenterEvent
from server.session.settings import AUTO, RATE, Policy, SessionSettings
from server.session.text import bare, unmarked
from session_store.base import Final, SessionState

MAX_TAIL = 200
"""Characters of the last final that are kept as context for the next one's punctuation."""

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
        self._state = state
        self._policy = policy
        self._policies = policies
        origin = max(state.acked, from_offset or 0)
        self._skip = max(0, state.acked - from_offset) if from_offset is not None else 0
        self._decoder = make_decoder(settings.encoding)
        self._chain = Chain(settings.sample_rate, origin, policy.vad_group)
        self._segmenter = Segmenter(policy, settings.endpoint_silence_ms)
        self._arrivals = Arrivals()
        self._open: Segment | None = None
        self._owed: deque[Promise] = deque()
        self._controls = Controls(settings, state.marks, origin)
        self._wants_partial = False
        self._numbers = 0
        self._jobs: dict[int, tuple[Segment, Job]] = {}
        self._acked = origin
        self._heard = origin
        """Input offset of the end of the newest window that was answered while its segment was open."""
        self._kept = origin
        """The acknowledgement that the newest `Store` asked to be kept: `next_seq` and the tail belong to it."""
        self.next_seq = state.next_seq
        self.is_ending = False
        self._done: Done | None = None
        self._out: list[Command] = []

    # --- what the shell may ask

    @property
    def settings(self) -> SessionSettings:
        """What holds at the acknowledged offset."""
        return self._controls.settings

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
        return sum(owed.audio_s for owed in self._owed if isinstance(owed, OwedFinal)) < self._policy.max_backlog_s

    @property
    def language(self) -> str:
        """The language of the open segment, or of the next one as far as is known."""
        return self._open.language if self._open else self.settings.language

    @property
    def owes(self) -> bool:
        """A final or another promise is due."""
        return bool(self._owed)

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
            self._chain.detected += 512
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
        self._wants_partial = False
        segment = self._open
        if segment is None or segment.job is not None or self._segmenter.is_quiet or self._open_seq is None:
            return None
        end = self._chain.audio_end
        kind = Kind.PARTIAL
        trim = segment.trim_range(self._chain.detected)
        if trim is not None:
            end = trim[0] + quietest(self._chain.audio(*trim))
            kind = Kind.COMMIT
        return self._decode(segment, kind, segment.base, end)

    def hypothesis(self, job: int, hypothesis: Hypothesis, now: float) -> list[Command]:
        """Takes the answer to a `Decode`."""
        segment, decode = self._jobs.pop(job, (None, None))
        if segment is None or decode is None:
            return []
        covered = segment.covered
        segment.take(decode, hypothesis)
        if decode.kind is Kind.FINAL:
            self._drop_jobs(segment)  # the partial beside it came too late
        if segment is self._open:
            if decode.kind is not Kind.COMMIT:
                self._send_partial(segment, decode, covered, now)
                self._heard = self._chain.input_offset(decode.end)
            self._want_partial(now)
        else:
            self._settle(now)
        return self._take_out()

    def decode_failed(self, job: int, reason: str, now: float) -> list[Command]:
        """Takes the news that a `Decode` cannot be had, ever. A lost partial is replaced by the next one; a lost
        final is told to the client."""
        segment, decode = self._jobs.pop(job, (None, None))
        if segment is None or decode is None:
            return []
        segment.lose(decode, self._chain.detected)
        if decode.kind is Kind.FINAL:
            self._drop_jobs(segment)
        # What was decoded ahead of the endpoint is tried once more when the endpoint comes.
        if segment is not self._open:
            segment.final = (decode.end, NOTHING)
            at = f"{segment.start_s:.2f} s to {segment.end_s:.2f} s"
            self._send(Error(1011, f"the speech from {at} could not be decoded: {reason}", recoverable=True))
            self._settle(now)
        return self._take_out()

    def punctuated(self, number: int, text: str | None, now: float) -> list[Command]:
        """Takes the answer to a `Punctuate`; None if it failed, which costs the final its marks."""
        owed = self._head_final(Stage.PUNCTUATING, number)
        if owed is None or owed.final is None:
            return []
        if text is None:
            self._store(owed, replace(owed.final, text=unmarked(owed.final.text)))
        else:
            self._store(owed, replace(owed.final, text=text, punctuated=True))
        return self._take_out()

    def stored(self, ticket: int, now: float) -> list[Command]:
        """Takes the news that a `Store` is safe."""
        owed = self._head_final(Stage.STORING, ticket)
        if owed is None or owed.final is None:
            return []
        self._owed.popleft()
        self._send(owed.final, since=owed.segment.speech_arrival)
        self._ack(owed.segment.restart)
        self._settle(now)
        return self._take_out()

    def finalize(self, identifier: str | None, now: float) -> list[Command]:
        """Ends the open segment after the audio received so far. After `end` it is ignored."""
        if self.is_ending:
            return []
        if sum(isinstance(owed, OwedFinalized) for owed in self._owed) >= MAX_MARKS:
            raise TooManyMarksError
        mark = FinalizeMark(self.received - self._skip, identifier)
        if self._skip == 0:
            if self._controls.finalize(mark):
                self._store_state()
            self._advance(now)
        elif not self._controls.is_ahead(mark):
            # Said again with audio that was heard before: the segment ended there then, the answer was lost.
            self._owed.append(OwedFinalized(identifier, mark.offset))
            self._settle(now)
        return self._take_out()

    def set_language(self, language: str) -> list[Command]:
        """Decodes segments whose speech begins from here on in `language`. After `end` it is ignored."""
        if self.is_ending or self._skip:
            # Said again with audio that was heard before: it has taken effect, and what came later too.
            return []
        if self._controls.set_language(LanguageMark(self.received, language)):
            self._store_state()
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
        if self._done is not None:
            self._send(self._done)
        return self._take_out()

    def state(self) -> SessionState:
        """What a server must know to go on from where the newest final ends, stored or about to be."""
        acked = max(self._acked, self._kept)
        return replace(
            self._state,
            settings=self._controls.settings_before(acked + 1).to_json(),
            acked=acked,
            next_seq=self.next_seq,
            marks=self._controls.to_json(acked),
        )

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
            self._owed.append(OwedFinalized(fence.id, fence.offset))
        elif isinstance(fence, GapMark):
            self._restart(fence.end, acknowledge=True, now=now)
        else:
            self._owed.extend((OwedAck(fence.offset), OwedDone(fence.offset)))
        self._settle(now)

    def _on_speech(self, event: SegmenterEvent, now: float) -> None:
        if isinstance(event, Onset):
            self._on_onset(event)
            return
        if isinstance(event, Idle):
            self._restart(self._chain.input_offset(event.at), acknowledge=True, now=now)
            return
        segment = self._open
        assert segment is not None
        if isinstance(event, Quiet):
            self._on_quiet(segment, event)
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
        )
        self._send(SpeechStarted(self._chain.seconds(event.speech)))

    def _on_quiet(self, segment: Segment, event: Quiet) -> None:
        """Decodes the segment as if it ended here: when the endpoint is confirmed, its final is ready. A partial that
        is with the model already comes before it."""
        self._drop_wish()
        is_partial = segment.job is not None and segment.job.kind is Kind.PARTIAL
        self._drop_jobs(segment, but=segment.job if is_partial else None)
        segment.quiet()
        if self._knows_language(segment, event.end):
            self._out.append(self._decode(segment, Kind.FINAL, segment.start, event.end))

    def _close(self, end: int, speech_end: int, restart: int, now: float) -> None:
        """Ends the open segment at `end` and starts the chain afresh at the input offset `restart`."""
        segment = self._open
        assert segment is not None
        self._open = None
        segment.restart = restart
        segment.end_s = self._chain.seconds(min(speech_end, end))
        segment.speech_arrival = self._arrivals.at(self._chain.input_offset(speech_end) - 1, now)
        self._send(SpeechEnded(segment.end_s))
        ready = segment.final is not None and segment.final[0] == end
        coming = segment.job is not None and segment.job.kind is Kind.FINAL and segment.job.end == end
        self._drop_wish()
        self._drop_jobs(segment, but=segment.job if coming else None)
        if not ready and not coming:
            segment.final = None
            decode = self._decode(segment, Kind.FINAL, segment.start, end)
            if self._knows_language(segment, end):
                self._out.append(decode)
            else:
                segment.waiting = decode
        self._owed.append(OwedFinal(segment, (end - segment.start) / RATE))
        self._restart(restart, acknowledge=False, now=now)
        self._settle(now)

    def _restart(self, at: int, *, acknowledge: bool, now: float) -> None:
        self._chain.restart(at)
        self._segmenter = Segmenter(self._policy, self.settings.endpoint_silence_ms)
        if acknowledge:
            self._owed.append(OwedAck(at))
            self._settle(now)

    # --- decoding

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _decode(self, segment: Segment, kind: Kind, start: int, end: int) -> Decode:
        job = Job(self._number(), kind, start, end)
        segment.ask(job)
        self._jobs[job.number] = (segment, job)
        language = self._decode_language(segment, kind, end)
        is_partial = kind is not Kind.FINAL
        return Decode(job.number, self._chain.audio(start, end), language, segment.draft(start), is_partial)

    def _decode_language(self, segment: Segment, kind: Kind, end: int) -> str:
        """In an auto session a final that is long enough may change the language; everything else goes by what is
        known, since a model takes the language of a word or two for any other."""
        if segment.language != AUTO or (kind is Kind.FINAL and self._is_telling(segment, end)):
            return segment.language
        # What a partial found hangs on when it was decoded, and no final may.
        heard = "" if kind is Kind.FINAL else segment.heard_language
        return self.settings.detected or heard or AUTO

    def _is_telling(self, segment: Segment, end: int) -> bool:
        return end - segment.start >= self._policy.detect_s * RATE

    def _knows_language(self, segment: Segment, end: int) -> bool:
        """Whether the language of a final that ends at `end` hangs on no final that is still to come."""
        if segment.language != AUTO or self._is_telling(segment, end):
            return True
        return not any(isinstance(owed, OwedFinal) for owed in self._owed)

    def _drop_wish(self) -> None:
        if self._wants_partial:
            self._wants_partial = False
            self._out.append(DropPartial())

    def _drop_jobs(self, segment: Segment, but: Job | None = None) -> None:
        for job in segment.withdraw(but):
            del self._jobs[job.number]
            self._out.append(Cancel(job.number))

    def _want_partial(self, now: float) -> None:
        segment = self._open
        if segment is None or self._wants_partial or not self.settings.partials or self._segmenter.is_quiet:
            return
        if segment.is_due(self._chain.detected) and self._open_seq is not None:
            self._wants_partial = True
            self._out.append(WantPartial(self._arrival(segment.covered, now)))

    def _arrival(self, position: int, now: float) -> float:
        """When the sample at a position arrived, or the first one after it that no window has covered: what follows a
        cut in the midst of speech was in the windows before it."""
        return self._arrivals.at(max(self._chain.input_offset(position), self._heard), now)

    def _send_partial(self, segment: Segment, job: Job, covered: int, now: float) -> None:
        """Sends what is new; `covered` is where the audio begins that no window before this one's covered."""
        text, seq = segment.prefix.text, self._open_seq
        if text == segment.shown or not self.settings.partials or seq is None:
            return
        segment.shown, segment.promised = text, segment.prefix.stable
        end = self._chain.seconds(job.end)
        partial = Partial(text, segment.text_language, seq, segment.start_s, end, segment.prefix.stable)
        self._send(partial, since=self._arrival(covered, now))

    # --- promises

    @property
    def _open_seq(self) -> int | None:
        """The seq of the open segment's final; None while that hangs on whether one that is owed says anything.

        So partials go on while a final before them is punctuated or waits for a store that is away.
        """
        ahead = [owed for owed in self._owed if isinstance(owed, OwedFinal) and owed.stage is not Stage.STORING]
        if any(owed.will_come is None for owed in ahead):
            return None
        return self.next_seq + sum(owed.will_come is True for owed in ahead)

    def _settle(self, now: float) -> None:
        """Carries out what is owed, as far as the oldest promise allows."""
        while self._owed:
            owed = self._owed[0]
            if isinstance(owed, OwedFinal):
                self._decode_waiting(owed.segment)
                if owed.stage is not Stage.DECODING or not owed.segment.is_decoded:
                    return
                if not self._begin_final(owed):
                    return
            elif isinstance(owed, OwedAck):
                self._ack(owed.audio_offset)
            elif isinstance(owed, OwedFinalized):
                self._send(Finalized(owed.id, owed.audio_offset))
            else:
                self._done = Done(owed.audio_offset, self.next_seq, self.audio_seconds)
                self._send(self._done)
                self._out.append(Finish(self.audio_seconds))
            self._owed.popleft()
        self._want_partial(now)

    def _decode_waiting(self, segment: Segment) -> None:
        """Decodes what had to wait for the language that the segment before it was found to be in."""
        if segment.waiting is not None:
            language = self._decode_language(segment, Kind.FINAL, segment.start)
            self._out.append(replace(segment.waiting, language=language))
            segment.waiting = None

    def _begin_final(self, owed: OwedFinal) -> bool:
        """Starts on the final of the oldest closed segment; true if there is none, as nothing was said."""
        segment = owed.segment
        assert segment.final is not None
        hypothesis = segment.final[1]
        said = bare(hypothesis.text)
        if said and segment.language == AUTO and hypothesis.language not in ("", AUTO):
            self._controls.detect(hypothesis.language)
        if not said and not self._retract(segment):
            self._ack(segment.restart)
            return True
        owed.final = Final(
            seq=self.next_seq,
            text=hypothesis.text,
            start=round(segment.start_s, 3),
            end=round(segment.end_s, 3),
            language=hypothesis.language or segment.language,
            confidence=hypothesis.confidence,
            punctuated=False,
        )
        if not self.settings.punctuate or not said:
            self._store(owed, replace(owed.final, text=said))
            return False
        owed.stage, owed.number = Stage.PUNCTUATING, self._number()
        self._out.append(Punctuate(owed.number, hypothesis.text, self._state.tail, owed.final.language))
        return False

    def _retract(self, segment: Segment) -> bool:
        """Takes back partials of a segment in which nothing was said after all. True where that cannot be done,
        since some of them was promised as stable: then an empty final says so."""
        if segment.promised:
            return True
        if segment.shown:
            language = segment.text_language or segment.language
            self._send(Partial("", language, self.next_seq, segment.start_s, segment.end_s, 0))
        return False

    def _store(self, owed: OwedFinal, final: Final) -> None:
        owed.final, owed.stage, owed.number = final, Stage.STORING, self._number()
        tail = f"{self._state.tail} {final.text}".strip()[-MAX_TAIL:]
        self._state = replace(self._state, tail=tail)
        self.next_seq += 1
        self._kept = owed.segment.restart
        self._out.append(Store(owed.number, self.state(), final))

    def _head_final(self, stage: Stage, number: int) -> OwedFinal | None:
        owed = self._owed[0] if self._owed else None
        if isinstance(owed, OwedFinal) and owed.stage is stage and owed.number == number:
            return owed
        return None

    def _ack(self, offset: int) -> None:
        if offset > self._acked:
            self._controls.forget(offset)
            self._acked = offset
            self._send(Ack(offset))

    def _store_state(self) -> None:
        """Has the state stored, as there is a mark in it that must not be lost."""
        self._out.append(Store(self._number(), self.state(), None))

    def _send(self, message: object, since: float | None = None) -> None:
        self._out.append(Send(message, since))  # type: ignore[arg-type]

    def _take_out(self) -> list[Command]:
        out, self._out = self._out, []
        return out
