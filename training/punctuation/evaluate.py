"""Prints how well each policy sets marks and casing: on texts never trained on, and on recordings.

python -m training.punctuation.evaluate [--data FOLDER] [--model FOLDER] [--manifest TSV ...]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from engines.base import EngineError
from engines.punctuation import Policy, Punctuator, Request
from engines.punctuation.text import Mark, join, parse
from training.punctuation import baseline
from training.punctuation.dataset import Texts, prepare
from training.punctuation.documents import Labelled
from training.punctuation.scores import Scores, table
from training.punctuation.sources import fetch
from training.punctuation.speech import Segment, cut, misheard, transcribed

MODEL = Path(__file__).resolve().parents[2] / "triton_models" / "punctuation" / "1"
"""Where the served weights lie."""

DATA = Path("~/.cache/starling/training/punctuation").expanduser()
"""Where the texts are fetched to."""

TAIL = 200
"""Characters of the last final that a session keeps as context."""

MOST_UNITS = 8_000
"""Units of each source that are tested: whole documents, or a long work from its beginning, until there are so many."""

Heard = list[list[tuple[Segment, str]]]
"""Documents as segments in turn: the truth, and the text that is to be punctuated."""

System = Callable[[Sequence[Request]], list[str]]


def systems(folder: Path) -> dict[str, System]:
    """Every way to write a final that is compared, by name."""

    def policy(name: Policy) -> System:
        punctuator = Punctuator(folder, policies={"en": name})

        def run(requests: Sequence[Request]) -> list[str]:
            results = punctuator.punctuate(requests)
            return [_text(result) for result in results]

        return run

    return {
        "rules": lambda requests: [baseline.punctuate(request.text) for request in requests],
        "ASR's own marks": policy(Policy.ASR),
        "model alone": policy(Policy.MODEL),
        "both together": policy(Policy.BOTH),
    }


def _text(result: str | EngineError) -> str:
    if isinstance(result, EngineError):
        raise result
    return result


def held_out(texts: Texts) -> dict[str, list[list[Labelled]]]:
    """The test documents by source, each as its passages."""
    found: dict[str, list[list[Labelled]]] = {}
    for source, documents in sorted(texts.splits["test"].items()):
        found[source] = []
        count = 0
        for document in documents:
            found[source].append([])
            for passage in document:
                if count < MOST_UNITS:
                    found[source][-1].append(passage)
                    count += len(passage.units)
    return found


def as_segments(documents: Sequence[list[Labelled]], *, mistakes: bool, seed: int = 23) -> Heard:
    """Documents cut at pauses, each segment with the text that an ASR model would write for it."""
    rng = random.Random(seed)
    found = []
    for document in documents:
        heard = [misheard(segment, ["the"], rng) if mistakes else segment for segment in cut(document, rng)]
        found.append([(segment, join(transcribed(segment, rng))) for segment in heard])
    return found


def as_passages(documents: Sequence[list[Labelled]]) -> Heard:
    """Documents in whole passages, all words in sight and no ASR model's marks: the usual test of such models."""
    return [
        [(Segment((), p.units, p.cases), join([replace(unit, mark=Mark.NONE) for unit in p.units]))]
        for document in documents
        for p in document
    ]


def run_documents(system: System, documents: Heard) -> list[list[str]]:
    """What a system writes for each document's segments in turn, each with its own last text as context."""
    written: list[list[str]] = [[] for _ in documents]
    for turn in range(max(map(len, documents), default=0)):
        at = [i for i, document in enumerate(documents) if turn < len(document)]
        requests = [Request(documents[i][turn][1], written[i][-1][-TAIL:] if written[i] else "") for i in at]
        for i, text in zip(at, system(requests), strict=True):
            written[i].append(text)
    return written


def report_held_out(texts: Texts, every: dict[str, System]) -> None:
    """Prints the tables over whole passages, over segments, and over segments with words misheard."""
    documents = held_out(texts)
    passages = {source: as_passages(docs) for source, docs in documents.items()}
    # There is no ASR model to ask for marks here, so only what works on bare text is compared.
    _report("whole passages, bare", passages, {name: every[name] for name in ("rules", "model alone")})
    for mistakes in (False, True):
        segments = {source: as_segments(docs, mistakes=mistakes) for source, docs in documents.items()}
        _report(f"segments{' with words misheard' if mistakes else ''}, simulated ASR marks", segments, every)


def _report(title: str, groups: dict[str, Heard], every: dict[str, System]) -> None:
    scores = {(name, source): Scores() for name in every for source in (*groups, "prose", "all")}
    for name, system in every.items():
        for source, documents in groups.items():
            for document, texts_written in zip(documents, run_documents(system, documents), strict=True):
                for (segment, _), text in zip(document, texts_written, strict=True):
                    for group in {source, "all", "all" if source == "chat" else "prose"}:
                        scores[name, group].add(segment.truth, parse(text))
    for source in ("chat", *(s for s in groups if s != "chat"), "prose", "all"):
        units = scores["rules", source].cased[1]
        print(f"\n{title}: {source}, {units} words\n")
        print(table([(name, scores[name, source]) for name in every]), flush=True)


def report_recordings(manifests: Sequence[Path], every: dict[str, System], weights: Path, pause: float) -> None:
    """Prints a table over all English clips of the manifests and one for each clip with more than one segment."""
    # Not needed for the texts, so the training's environment can do without them.
    from engines.moonshine.engine import MoonshineEngine
    from training.punctuation import recordings

    engine = MoonshineEngine(weights, threads=2)
    clips = [clip for manifest in manifests for clip in recordings.read(manifest, "en", engine, pause)]
    totals = {name: Scores() for name in every}
    for clip in clips:
        single = {name: Scores() for name in every}
        for name, system in every.items():
            written: list[str] = []
            for text in clip.segments:
                written += system([Request(text, written[-1][-TAIL:] if written else "")])
            for scores in (totals[name], single[name]):
                recordings.score(scores, clip.transcript, " ".join(written))
            if len(clip.segments) > 1:
                print(f"\n{clip.name}, {name}: {' | '.join(written)}")
        if len(clip.segments) > 1:
            print(f"\n{clip.name}, {len(clip.segments)} segments\n\n{table(list(single.items()))}")
    print(f"\n{len(clips)} recordings, {sum(len(c.segments) for c in clips)} segments\n\n{table(list(totals.items()))}")


def report_speed(folder: Path) -> None:
    """Prints the median time for a segment of 20 words with full context on one core, alone and in a batch of 32.

    The processor's time is what counts where other programs run beside this one.
    """
    punctuator = Punctuator(folder, threads=1)
    words = "we took the train down to the coast and when the rain came we sat in a small cafe for"
    request = Request(words, "It had been a long week for all of us, and nobody wanted to stay in town.")
    for rows in (1, 32):
        spent = []
        for _ in range(30):
            began = time.perf_counter(), time.process_time()
            punctuator.punctuate([request] * rows)
            ended = time.perf_counter(), time.process_time()
            spent.append([(end - begin) * 1000 / rows for begin, end in zip(began, ended, strict=True)])
        wall, processor = (sorted(column)[len(spent) // 2] for column in zip(*spent, strict=True))
        print(f"{len(words.split())} words, batch of {rows}: median {wall:.1f} ms each, {processor:.1f} ms of the core")


def main() -> None:
    """Reads the command line and prints every table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the fetched texts")
    parser.add_argument("--model", type=Path, default=MODEL, help="folder with punctuation.onnx and what goes with it")
    parser.add_argument("--manifest", type=Path, action="append", default=[], help="transcripts.tsv of recordings")
    parser.add_argument("--asr", type=Path, default=Path("~/.cache/starling/models/moonshine-tiny-en").expanduser())
    parser.add_argument("--pause", type=float, default=0.5, help="silence in seconds that ends a recording's segment")
    parser.add_argument("--no-texts", action="store_true", help="recordings and speed only")
    arguments = parser.parse_args()
    every = systems(arguments.model)
    if not arguments.no_texts:
        fetch(arguments.data)
        texts = prepare(arguments.data)
        report_held_out(texts, every)
    if arguments.manifest:
        report_recordings(arguments.manifest, every, arguments.asr, arguments.pause)
    report_speed(arguments.model)


if __name__ == "__main__":
    main()
