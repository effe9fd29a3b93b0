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

from engines.moonshine.drafts import Draft
from engines.moonshine.graphs import LAYERS, VOCABULARY, WIDTH
from engines.moonshine.tokenizer import BOS, EOS

_CACHES = 2 * LAYERS
_BLOCK = 32
_MIN_STEP = 2
_MASKED = -30000.0


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One row to decode.

    Attributes:
        cross: keys and values of the encoder, shape (12, 8, frames, 36).
        draft: proposed token ids; any garbage is harmless.
        limit: stop after this many tokens.
    """

    cross: NDArray[np.floating]
    draft: Sequence[int]
    limit: int


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
    """

    draft: Draft
    limit: int
    tokens: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    passes: int = 0
    confirmed: int = 0
    done: bool = False
    ended: bool = False

    def step(self) -> list[int]:
        """The tokens to feed: the last certain one, then proposals."""
        last = self.tokens[-1] if self.tokens else BOS
        return [last, *self.draft.proposal(self.limit - len(self.tokens) - 1)]

    def take(self, fed: list[int], chosen: list[int], probabilities: list[float]) -> None:
        """Keeps the choices up to the first one that the next fed token does not agree with."""
        self.passes += 1
        agreed = 0
        while agreed + 1 < len(fed) and chosen[agreed] == fed[agreed + 1]:
            agreed += 1
        self.confirmed += agreed
        self.probabilities += probabilities[: agreed + 1]
        self.tokens += chosen[:agreed]
        if chosen[agreed] == EOS:
            self.done = self.ended = True
            return
        self.tokens.append(chosen[agreed])
        self.draft.advance(agreed, chosen[agreed])
        self.done = len(self.tokens) >= self.limit


class GreedyDecoder:
    """Decodes batches on one decoder session; may be called from several threads at once."""

    def __init__(self, session: ort.InferenceSession, device: str, guess: int) -> None:
        """`guess` is the token proposed where a draft has no more: the full stop, which ends most hypotheses.

        It costs nothing, since a pass has room for two, and saves a pass whenever the end mark follows it.
        """
        self._guess = guess
        self._session = session
        self._device = device
        self._float = np.float16 if session.get_inputs()[4].type == "tensor(float16)" else np.float32

    def decode(self, jobs: Sequence[Job]) -> list[Row]:
        """Decodes all jobs together; the results are in order."""
        rows = [Row(Draft(job.draft, VOCABULARY, self._guess), job.limit) for job in jobs]
        active = list(range(len(rows)))
        while active:
            self._decode_together([rows[index] for index in active], [jobs[index].cross for index in active])
            active = [index for index in active if not rows[index].done]
        return rows

    def _decode_together(self, rows: list[Row], crosses: list[NDArray[np.floating]]) -> None:
        """Decodes until at least half of the rows are done; the rest is better off in a smaller batch."""
        batch = _Batch(self._session, self._device, self._float, rows, crosses)
        enough = (len(rows) + 1) // 2
        while sum(row.done for row in rows) < enough:
            batch.run()


class _Batch:
    """Bound inputs, outputs and caches of one set of rows."""

    def __init__(
        self,
        session: ort.InferenceSession,
        device: str,
        dtype: type[np.floating],
        rows: list[Row],
        crosses: list[NDArray[np.floating]],
    ) -> None:
        self._session, self._device, self._dtype, self._rows = session, device, dtype, rows
        self._frames = [cross.shape[2] for cross in crosses]
        self._capacity = _whole_blocks(max(row.limit for row in rows) + 2)
        self._binding = session.io_binding()
        padded = _pad(crosses, dtype)
        self._cross_bias = np.full((len(rows), 1, 1, padded.shape[3]), _MASKED, dtype)
        for index, frames in enumerate(self._frames):
            self._cross_bias[index, :, :, :frames] = 0
        for index in range(_CACHES):
            self._bind(f"cross.{index}", padded[index])
        shape = (len(rows), self._capacity, WIDTH)
        self._caches = [[self._value(np.zeros(shape, dtype)) for _ in range(_CACHES)] for _ in range(2)]
        self._refill = any(row.tokens for row in rows)

    def run(self) -> None:
        """One decoder pass over all rows that are not done."""
        live = [index for index, row in enumerate(self._rows) if not row.done]
        fed = {index: self._fed(self._rows[index]) for index in live}
        step = max(_MIN_STEP, *(len(tokens) for tokens in fed.values()))
        tokens = np.zeros((len(self._rows), step), np.int64)
        starts = np.zeros(len(self._rows), np.int64)
        wanted: list[int] = []
        for index, given in fed.items():
            row = self._rows[index]
            tokens[index, : len(given)] = given
            starts[index] = 0 if self._refill else len(row.tokens)
            first = len(row.tokens) if self._refill else 0
            wanted += range(index * step + first, index * step + len(given))
        chosen, probabilities = self._pass(tokens, starts, np.array(wanted, np.int64))
        at = 0
        for index, given in fed.items():
            row = self._rows[index]
            news = given[len(row.tokens) :] if self._refill else given
            row.take(news, chosen[at : at + len(news)], probabilities[at : at + len(news)])
            at += len(news)
        self._refill = False

    def _fed(self, row: Row) -> list[int]:
        """After a change of batch the caches are empty: feed what is certain again, in the same pass."""
        return [BOS, *row.tokens[:-1], *row.step()] if self._refill and row.tokens else row.step()

    def _pass(
        self, tokens: NDArray[np.int64], starts: NDArray[np.int64], wanted: NDArray[np.int64]
    ) -> tuple[list[int], list[float]]:
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
        self._binding.bind_output("next")
        self._binding.bind_output("probability")
        for index in range(_CACHES):
            self._binding.bind_ortvalue_input(f"past.{index}", past[index])
            self._binding.bind_ortvalue_output(f"present.{index}", present[index])
        self._session.run_with_iobinding(self._binding)
        self._caches.reverse()
        chosen, probabilities = self._binding.get_outputs()[:2]
        return chosen.numpy().tolist(), probabilities.numpy().tolist()

    def _value(self, array: NDArray[np.generic]) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)

    def _bind(self, name: str, array: NDArray[np.generic]) -> None:
        self._binding.bind_ortvalue_input(name, self._value(array))


def _whole_blocks(count: int) -> int:
    return -(-count // _BLOCK) * _BLOCK


def _pad(crosses: list[NDArray[np.floating]], dtype: type[np.floating]) -> NDArray[np.floating]:
    frames = _whole_blocks(max(cross.shape[2] for cross in crosses))
    caches, heads, _, width = crosses[0].shape
    padded = np.zeros((caches, len(crosses), heads, frames, width), dtype)
    for index, cross in enumerate(crosses):
        padded[:, index, :, : cross.shape[2]] = cross
    return padded
