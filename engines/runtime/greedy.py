"""Greedy decoding of a batch, with drafts.

The result of a row depends on nothing but its own audio, bit for bit. Every choice below serves that: a key sits in the
cache column of its position whatever was proposed before; capacity and frames are padded to whole vector blocks, so a
longer neighbour only adds zeros at the end of a sum; and a pass never has a single token, because the matrix library
has another kernel, with another order of summation, for matrices of one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from engines.runtime.drafts import Draft

_BLOCK = 32
_MIN_STEP = 2
_MASKED = -30000.0
_LONGEST_PERIOD = 60
_LOOP_TURNS, _HASTY_TURNS = 3, 2
_LOOP_TOKENS, _HASTY_TOKENS = 12, 16
_ECHO = 6
"""So many tokens that came before in the same order let expect that what followed then follows again."""
_ECHO_AHEAD = 16


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One row to decode.

    Attributes:
        prompt: what every hypothesis begins with, one token or more.
        cross: keys and values of the encoder, shape (2 * layers, heads, frames, head width).
        draft: proposed token ids; any garbage is harmless.
        limit: stop after this many tokens.
        is_hasty: whether it counts as a loop already when a longer stretch comes for the second time.
    """

    prompt: Sequence[int]
    cross: NDArray[np.floating]
    draft: Sequence[int]
    limit: int
    is_hasty: bool = False


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the decoder must know of a model's tokens.

    Attributes:
        words: the ids that text is made of; any other ends a hypothesis.
        guess: the token proposed where a draft has no more: the full stop, which ends most hypotheses. It costs
            nothing, since a pass has room for two, and saves a pass whenever the end mark follows it.
    """

    words: range
    guess: int
    stops_loops: bool = False
    """Whether a row ends where it begins to repeat itself, since its text would not be used."""


@dataclass(slots=True)
class Row:
    """A row's decoding state, and in the end its result.

    Attributes:
        tokens: what was decoded so far, without begin and end marks.
        probabilities: of each token, and of the end mark if it was reached.
        passes: decoder passes used.
        confirmed: proposed tokens that the arg-max confirmed.
        done: nothing more to decode.
        ended: the end mark was reached, not the limit.
        looped: it was stopped because it repeated itself.
        watched: probability of the token that the graph watches, behind the prompt's first token; 1 if it watches none.
    """

    prompt: list[int]
    vocabulary: Vocabulary
    draft: Draft
    limit: int
    is_hasty: bool = False
    tokens: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    passes: int = 0
    confirmed: int = 0
    done: bool = False
    ended: bool = False
    looped: bool = False
    watched: float = 1.0
    _is_echo: bool = False
    """What was proposed last was not the draft but an echo."""

    @property
    def certain(self) -> list[int]:
        """All that is known: the prompt and the tokens behind it."""
        return [*self.prompt, *self.tokens]

    def proposal(self) -> list[int]:
        """What may follow: the draft, or where the text repeats itself, its own earlier tokens once more."""
        limit = max(self.limit - len(self.tokens) - 1, 0)
        echo = _echo(self.tokens)[:limit]
        self._is_echo = bool(echo)
        return echo or self.draft.proposal(limit)

    def take(self, fed: list[int], chosen: list[int], probabilities: list[float]) -> None:
        """Keeps the choices up to the first one that the next fed token does not agree with."""
        self.passes += 1
        agreed = 0
        while agreed + 1 < len(fed) and chosen[agreed] == fed[agreed + 1]:
            agreed += 1
        self.confirmed += agreed
        self.probabilities += probabilities[: agreed + 1]
        self.tokens += chosen[:agreed]
        before = len(self.tokens) - agreed
        self.ended = chosen[agreed] not in self.vocabulary.words
        if not self.ended:
            self.tokens.append(chosen[agreed])
            self.draft.advance(0 if self._is_echo else agreed, self.tokens)
        if self.vocabulary.stops_loops:
            self._stop_loop(before)
        self.done = self.ended or self.looped or len(self.tokens) >= self.limit

    def _stop_loop(self, before: int) -> None:
        """Looks at every token since `before`, so that where a row stops hangs on no draft."""
        for count in range(before + 1, len(self.tokens) + 1):
            if is_loop(self.tokens[:count], is_hasty=self.is_hasty):
                del self.tokens[count:], self.probabilities[count:]
                self.looped, self.ended = True, False
                return


class GreedyDecoder:
    """Decodes batches on one decoder session; may be called from several threads at once."""

    def __init__(self, session: ort.InferenceSession, device: str, vocabulary: Vocabulary) -> None:
        """Takes a graph with the inputs and outputs that `engines.moonshine.graphs` describes, of any size."""
        self._vocabulary = vocabulary
        self._session = session
        self._device = device

    def decode(self, jobs: Sequence[Job]) -> list[Row]:
        """Decodes all jobs together; the results are in order."""
        known = self._vocabulary
        drafts = [Draft(job.draft, known.words, known.guess) for job in jobs]
        rows = [
            Row(list(job.prompt), known, draft, job.limit, job.is_hasty)
            for job, draft in zip(jobs, drafts, strict=True)
        ]
        active = list(range(len(rows)))
        while active:
            self._decode_together([rows[index] for index in active], [jobs[index].cross for index in active])
            active = [index for index in active if not rows[index].done]
        return rows

    def _decode_together(self, rows: list[Row], crosses: list[NDArray[np.floating]]) -> None:
        """Decodes until at least half of the rows are done; the rest is better off in a smaller batch."""
        batch = _Batch(self._session, self._device, rows, crosses)
        enough = (len(rows) + 1) // 2
        while sum(row.done for row in rows) < enough:
            batch.run()


class _Batch:
    """Bound inputs, outputs and caches of one set of rows."""

    def __init__(
        self, session: ort.InferenceSession, device: str, rows: list[Row], crosses: list[NDArray[np.floating]]
    ) -> None:
        self._session, self._device, self._rows = session, device, rows
        inputs = {given.name: given for given in session.get_inputs()}
        self._dtype = np.float16 if inputs["self_bias"].type == "tensor(float16)" else np.float32
        self._watches = any(given.name == "watched" for given in session.get_outputs())
        self._frames = [cross.shape[2] for cross in crosses]
        self._capacity = _whole_blocks(max(len(row.prompt) + row.limit for row in rows) + 1)
        self._binding = session.io_binding()
        padded = _pad(crosses, self._dtype)
        self._cross_bias = np.full((len(rows), 1, 1, padded.shape[3]), _MASKED, self._dtype)
        for index, frames in enumerate(self._frames):
            self._cross_bias[index, :, :, :frames] = 0
        for index, cross in enumerate(padded):
            self._bind(f"cross.{index}", cross)
        shape = (len(rows), self._capacity, inputs["past.0"].shape[2])
        self._caches = [[self._value(np.zeros(shape, self._dtype)) for _ in padded] for _ in range(2)]
        self._is_empty = True

    def run(self) -> None:
        """One decoder pass over all rows that are not done."""
        live = {index: row for index, row in enumerate(self._rows) if not row.done}
        # Into empty caches goes all that is certain, in the same pass.
        starts = {index: 0 if self._is_empty else len(row.certain) - 1 for index, row in live.items()}
        fed = {index: [*row.certain[starts[index] :], *row.proposal()] for index, row in live.items()}
        step = max(_MIN_STEP, *(len(given) for given in fed.values()))
        tokens = np.zeros((len(self._rows), step), np.int64)
        wanted: list[int] = []
        reads: dict[int, list[int]] = {}
        for index, row in live.items():
            tokens[index, : len(fed[index])] = fed[index]
            reads[index] = list(range(len(row.certain) - 1 - starts[index], len(fed[index])))
            if self._watches and not row.passes:
                reads[index].insert(0, 0)
            wanted += [index * step + read for read in reads[index]]
        first = np.array([starts.get(index, 0) for index in range(len(self._rows))], np.int64)
        chosen, probabilities, watched = self._pass(tokens, first, np.array(wanted, np.int64))
        at = 0
        for index, row in live.items():
            until = at + len(reads[index])
            if self._watches and not row.passes:
                row.watched = watched[at]
                at += 1
            news = fed[index][len(fed[index]) - (until - at) :]
            row.take(news, chosen[at:until], probabilities[at:until])
            at = until
        self._is_empty = False

    def _pass(
        self, tokens: NDArray[np.int64], starts: NDArray[np.int64], wanted: NDArray[np.int64]
    ) -> tuple[list[int], list[float], list[float]]:
        count, step = tokens.shape
        positions = np.minimum(starts[:, None] + np.arange(step), self._capacity - 1)
        slots = np.stack([np.broadcast_to(np.arange(count)[:, None], (count, step)), positions], axis=-1)
        visible = np.arange(self._capacity) <= positions[:, None, :, None]
        self_bias = np.where(visible, 0, _MASKED).astype(self._dtype)
        cross_bias = np.repeat(self._cross_bias, step, axis=2)
        named = {"tokens": tokens, "positions": positions, "slots": slots, "wanted": wanted}
        for name, value in (named | {"self_bias": self_bias, "cross_bias": cross_bias}).items():
            self._bind(name, np.ascontiguousarray(value))
        past, present = self._caches
        read = ("next", "probability", "watched") if self._watches else ("next", "probability")
        for name in read:
            self._binding.bind_output(name)
        for index, (before, after) in enumerate(zip(past, present, strict=True)):
            self._binding.bind_ortvalue_input(f"past.{index}", before)
            self._binding.bind_ortvalue_output(f"present.{index}", after)
        self._session.run_with_iobinding(self._binding)
        self._caches.reverse()
        found = [value.numpy().tolist() for value in self._binding.get_outputs()[: len(read)]]
        return found[0], found[1], found[2] if self._watches else []

    def _value(self, array: NDArray[np.generic]) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)

    def _bind(self, name: str, array: NDArray[np.generic]) -> None:
        self._binding.bind_ortvalue_input(name, self._value(array))


def _echo(tokens: Sequence[int]) -> list[int]:
    """What followed when the last tokens came before, the latest time; nothing if they have not."""
    last = list(tokens[-_ECHO:])
    for at in range(len(tokens) - _ECHO - 1, _ECHO - 2, -1):
        if tokens[at] == last[-1] and list(tokens[at + 1 - _ECHO : at + 1]) == last:
            return list(tokens[at + 1 : at + 1 + _ECHO_AHEAD])
    return []


def is_loop(tokens: Sequence[int], *, is_hasty: bool = False) -> bool:
    """Whether the end of `tokens` is one stretch three times or more and for a dozen tokens; in haste, also whether it
    is one of eight tokens or more twice."""
    for period in range(1, _LONGEST_PERIOD + 1):
        length = max(_LOOP_TURNS * period, _LOOP_TOKENS)
        if is_hasty:
            length = min(length, max(_HASTY_TURNS * period, _HASTY_TOKENS))
        if length > len(tokens):
            continue
        if all(tokens[-at] == tokens[-at - period] for at in range(1, length - period + 1)):
            return True
    return False


def _whole_blocks(count: int) -> int:
    return -(-count // _BLOCK) * _BLOCK


def _pad(crosses: list[NDArray[np.floating]], dtype: type[np.floating]) -> NDArray[np.floating]:
    frames = _whole_blocks(max(cross.shape[2] for cross in crosses))
    caches, heads, _, width = crosses[0].shape
    padded = np.zeros((caches, len(crosses), heads, frames, width), dtype)
    for index, cross in enumerate(crosses):
        padded[:, index, :, : cross.shape[2]] = cross
    return padded
