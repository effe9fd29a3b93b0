"""The windows that a session has decoded: when, in which language, and what is shown of the answers as partials."""

from __future__ import annotations

from server.session.arrivals import Arrivals
from server.session.chain import Chain
from server.session.commands import Cancel, Command, Decode, DropPartial, Send, WantPartial
from server.session.controls import Controls
from server.session.segment import Hypothesis, Job, Kind, Segment, quietest
from server.session.settings import AUTO, RATE


class Decoding:
    """The decodes under way, and the wish for a partial, which becomes a decode when there is room for it.

    A segment has one window with the model at a time; only a partial that was there already goes on beside the
    segment's final. Positions are 16 kHz samples since the chain's origin.
    """

    def __init__(
        self, chain: Chain, arrivals: Arrivals, controls: Controls, detect_s: float, out: list[Command]
    ) -> None:
        """From `detect_s` seconds of speech on a model tells languages apart. Commands are appended to `out`."""
        self._chain = chain
        self._arrivals = arrivals
        self._controls = controls
        self._detect_s = detect_s
        self._out = out
        self._jobs: dict[int, tuple[Segment, Job]] = {}
        self._numbers = 0
        self._wants_partial = False

    # --- partials

    def want_partial(self, segment: Segment, now: float) -> None:
        """Wants a partial of the segment if one is due, and none is waiting for its turn."""
        if not self._wants_partial and self._controls.settings.partials and segment.is_due(self._chain.detected):
            self._wants_partial = True
            self._out.append(WantPartial(self._news_arrival(segment.covered, now)))

    def take_partial(self, segment: Segment | None) -> Decode | None:
        """The turn of the partial that was wanted has come: the segment's newest window, or None if there is no
        segment any more, or a window of it is with the model already."""
        self._wants_partial = False
        if segment is None or segment.job is not None:
            return None
        trim = segment.trim_range(self._chain.detected)
        if trim is None:
            return self._begin(segment, Kind.PARTIAL, segment.base, self._chain.audio_end)
        return self._begin(segment, Kind.COMMIT, segment.base, trim[0] + quietest(self._chain.audio(*trim)))

    def show(self, segment: Segment, answered: Job, seq: int | None, now: float) -> None:
        """Sends what an answer has changed in the segment's text, as a partial of the final that will have `seq`;
        nothing while that is not known."""
        if answered.kind is Kind.COMMIT:
            return
        if seq is not None and self._controls.settings.partials:
            partial = segment.partial(seq, self._chain.seconds(answered.end))
            if partial is not None:
                begun, segment.unheard = segment.unheard, None
                speech_since = None if begun is None else self._arrivals.at(begun, now)
                self._out.append(Send(partial, self._news_arrival(segment.news_from, now), speech_since))
        self._arrivals.cover(self._chain.input_offset(answered.end))

    def _news_arrival(self, covered: int, now: float) -> float:
        """When the audio behind the position `covered` began to arrive."""
        return self._arrivals.at(self._arrivals.uncovered(self._chain.input_offset(covered)), now)

    # --- finals

    def foresee(self, segment: Segment, end: int, *, is_first: bool) -> None:
        """Decodes the segment as if it ended at the short silence at `end`: when the endpoint is confirmed, its final
        is ready. A partial that is with the model already comes before it.

        `is_first`: no final before it is still to come.
        """
        self._drop_wish()
        is_partial = segment.job is not None and segment.job.kind is Kind.PARTIAL
        self._withdraw(segment, but=segment.job if is_partial else None)
        segment.quiet()
        if self._knows_language(segment, end, is_first):
            self._out.append(self._begin(segment, Kind.FINAL, segment.start, end))

    def close(self, segment: Segment, end: int, *, is_first: bool) -> Decode | None:
        """Decodes the segment as it ends at `end`, unless that was foreseen.

        Where its language hangs on a final before it, the command is returned, to be given out when that has come.
        """
        ready = segment.final is not None and segment.final[0] == end
        coming = segment.job is not None and segment.job.kind is Kind.FINAL and segment.job.end == end
        self._drop_wish()
        self._withdraw(segment, but=segment.job if coming else None)
        if ready or coming:
            return None
        segment.final = None
        decode = self._begin(segment, Kind.FINAL, segment.start, end)
        if not self._knows_language(segment, end, is_first):
            return decode
        self._out.append(decode)
        return None

    # --- answers

    def take(self, number: int, hypothesis: Hypothesis) -> tuple[Segment, Job] | None:
        """Gives an answer to its segment; None if it is not wanted any more."""
        segment, job = self._jobs.pop(number, (None, None))
        if segment is None or job is None:
            return None
        segment.take(job, hypothesis)
        return self._finished(segment, job)

    def lose(self, number: int) -> tuple[Segment, Job] | None:
        """There is no answer, and will be none; None if it is not wanted any more."""
        segment, job = self._jobs.pop(number, (None, None))
        if segment is None or job is None:
            return None
        segment.lose(job, self._chain.detected)
        return self._finished(segment, job)

    def _finished(self, segment: Segment, job: Job) -> tuple[Segment, Job]:
        if job.kind is Kind.FINAL:
            self._withdraw(segment)  # the partial beside it came too late
        return segment, job

    # --- windows

    def _begin(self, segment: Segment, kind: Kind, start: int, end: int) -> Decode:
        self._numbers += 1
        job = Job(self._numbers, kind, start, end)
        segment.ask(job)
        self._jobs[job.number] = (segment, job)
        language = self._language(segment, kind, end)
        is_partial = kind is not Kind.FINAL
        return Decode(job.number, self._chain.audio(start, end), language, segment.draft(start), is_partial)

    def _language(self, segment: Segment, kind: Kind, end: int) -> str:
        """In an auto session a final that is long enough may change the language; everything else goes by what is
        known, since a model takes the language of a word or two for any other."""
        if segment.language != AUTO or (kind is Kind.FINAL and self._is_telling(segment, end)):
            return segment.language
        # What a partial found hangs on when it was decoded, and no final may.
        heard = "" if kind is Kind.FINAL else segment.heard_language
        return self._controls.settings.detected or heard or AUTO

    def _is_telling(self, segment: Segment, end: int) -> bool:
        return end - segment.start >= self._detect_s * RATE

    def _knows_language(self, segment: Segment, end: int, is_first: bool) -> bool:
        """Whether the language of a final that ends at `end` hangs on no final that is still to come."""
        return segment.language != AUTO or self._is_telling(segment, end) or is_first

    def _drop_wish(self) -> None:
        if self._wants_partial:
            self._wants_partial = False
            self._out.append(DropPartial())

    def _withdraw(self, segment: Segment, but: Job | None = None) -> None:
        for job in segment.withdraw(but):
            del self._jobs[job.number]
            self._out.append(Cancel(job.number))
