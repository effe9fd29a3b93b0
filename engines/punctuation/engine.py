"""Marks and casing for finals: batches of texts in, texts out, each the same whoever shares its batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from engines.base import EngineError
from engines.punctuation.decode import Bias, choose_marks, load_settings, log_softmax, write
from engines.punctuation.features import CONTEXT_UNITS, Encoded, encode, pad
from engines.punctuation.lexicon import load_lexicon
from engines.punctuation.policies import POLICIES, Policy, policy_of
from engines.punctuation.text import SENTENCE_ENDS, Unit, join, parse
from engines.punctuation.wordpiece import load_pieces

MAX_CHARACTERS = 20_000
"""The longest text; twenty minutes of speech."""

CHUNK_UNITS, LOOK_AHEAD = 96, 24
"""A longer text is labelled in chunks; a chunk's last units are only looked at and labelled with the next one."""

MAX_INPUT = 512
"""Positions that the encoder knows."""

WIDTH_STEP, MAX_ROWS = 16, 32
"""Inputs are padded to multiples of the one and run at most the other at a time."""


@dataclass(frozen=True, slots=True)
class Request:
    """One final to punctuate.

    Attributes:
        text: the ASR model's own text.
        context: the tail of the session's last final as it was sent; empty at the start.
        language: language code such as ``en``.
    """

    text: str
    context: str = ""
    language: str = "en"


@dataclass(slots=True)
class _Job:
    """A request on its way: what is written already, and what is left."""

    policy: Policy
    left: list[Unit]
    context: list[Unit]
    written: list[Unit] = field(default_factory=list)


class Punctuator:
    """The model with its lexicon and its policies. Safe to call from one thread at a time."""

    def __init__(self, folder: Path, *, policies: Mapping[str, Policy] = POLICIES, threads: int = 1) -> None:
        """Loads ``punctuation.onnx``, ``tokenizer.json``, ``casing.tsv`` and ``settings.json`` out of a folder.

        Raises FileNotFoundError, saying what is missing, where it is not whole.
        """
        for name in ("punctuation.onnx", "tokenizer.json", "casing.tsv", "settings.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} has no {name}; it comes with the source tree or from the training")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The weights are widened once while loading; as nodes they would be widened again for every batch.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session = onnxruntime.InferenceSession(
            str(folder / "punctuation.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._pieces = load_pieces(folder / "tokenizer.json")
        self._lexicon = load_lexicon(folder / "casing.tsv")
        self._settings = load_settings(folder / "settings.json")
        self._policies = policies

    def punctuate(self, requests: Sequence[Request]) -> list[str | EngineError]:
        """The punctuated text of each request, in order; an `EngineError` for one that cannot be done.

        The letters and digits of a text and their order never change.
        """
        results: list[str | EngineError | None] = [self._without_model(request) for request in requests]
        jobs = {i: self._job(requests[i]) for i, result in enumerate(results) if result is None}
        while waiting := [job for job in jobs.values() if job.left]:
            self._advance(waiting)
        for i, job in jobs.items():
            results[i] = join(job.written)
        return [result if result is not None else "" for result in results]

    def _without_model(self, request: Request) -> str | EngineError | None:
        """The result where the model is not needed, else None."""
        if len(request.text) > MAX_CHARACTERS:
            return EngineError(f"the text has {len(request.text)} characters; send at most {MAX_CHARACTERS} at a time")
        if not request.text.strip():
            return ""
        keeps = policy_of(request.language, self._policies) == Policy.ASR or not parse(request.text)
        return request.text.strip() if keeps else None

    def _job(self, request: Request) -> _Job:
        policy = policy_of(request.language, self._policies)
        context = parse(request.context[-40 * CONTEXT_UNITS :])[-CONTEXT_UNITS:]
        return _Job(policy, parse(request.text), context)

    def _advance(self, jobs: Sequence[_Job]) -> None:
        """Labels the next chunk of every job, inputs of like width together."""
        by_width: dict[int, list[tuple[_Job, int, Encoded]]] = defaultdict(list)
        for job in jobs:
            size, encoded = self._encode(job)
            by_width[-(-encoded.columns.shape[1] // WIDTH_STEP) * WIDTH_STEP].append((job, size, encoded))
        for width, group in by_width.items():
            rows = iter(group)
            while part := list(islice(rows, MAX_ROWS)):
                marks, cases = self._run([encoded for _, _, encoded in part], width)
                for (job, size, encoded), mark, case in zip(part, marks, cases, strict=True):
                    self._write(job, size, encoded, mark, case)

    def _encode(self, job: _Job) -> tuple[int, Encoded]:
        """The job's next chunk that fits the model, and how many units it has."""
        size = min(len(job.left), CHUNK_UNITS)
        while True:
            encoded = encode(
                job.left[:size], job.context, self._pieces, self._lexicon.prior, use_hints=job.policy == Policy.BOTH
            )
            if encoded.columns.shape[1] <= MAX_INPUT or size == 1:
                return size, encoded
            size = max(size // 2, 1)

    def _run(self, encoded: Sequence[Encoded], width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mark log-probabilities (b, n, 5) and case logits (b, n, 4)."""
        columns = pad([e.columns for e in encoded], width)
        marks, cases = self._session.run(["marks", "cases"], {"columns": columns})
        return log_softmax(marks), cases

    def _write(
        self, job: _Job, size: int, encoded: Encoded, marks: NDArray[np.float32], cases: NDArray[np.float32]
    ) -> None:
        """Moves the chunk's units, all but its look-ahead, from what is left to what is written."""
        ends = size == len(job.left)
        done = size if ends else max(size - LOOK_AHEAD, 1)
        units, positions = job.left[:done], encoded.positions[:done]
        bias = self._settings.bias.get(job.policy, Bias())
        chosen = choose_marks(units, marks[positions], bias, ends=ends)
        job.written += write(
            units,
            chosen,
            cases[positions].argmax(-1).tolist(),
            self._lexicon,
            starts=self._starts(job, encoded, marks),
            keep=job.policy == Policy.BOTH,
        )
        job.left = job.left[done:]
        job.context = [*job.context, *job.written[-CONTEXT_UNITS:]][-CONTEXT_UNITS:]

    def _starts(self, job: _Job, encoded: Encoded, marks: NDArray[np.float32]) -> bool:
        """Whether the chunk's first unit begins a sentence."""
        if not job.context:
            return True
        if job.context[-1].mark in SENTENCE_ENDS or job.written:
            return job.context[-1].mark in SENTENCE_ENDS
        ended = np.exp(marks[encoded.context_position, sorted(SENTENCE_ENDS)]).sum()
        return bool(ended >= self._settings.fresh_start)
