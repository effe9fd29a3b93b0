"""Token ids to text for Moonshine's `tokenizer.bin` (SentencePiece pieces, byte fallback)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BOS = 1
EOS = 2
_FIRST_BYTE = 3
_LAST_BYTE = 258
_SPACE = "\u2581".encode()


class Tokenizer:
    """Decodes ids; there is nothing to encode, since drafts travel as ids."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [_surface(index, piece) for index, piece in enumerate(pieces)]

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Reads `tokenizer.bin`.

        Raises:
            ValueError: the file ends in the middle of a piece.
        """
        return cls(_read_pieces(path.read_bytes(), path))

    def __len__(self) -> int:
        return len(self._pieces)

    def find(self, text: str) -> int:
        """The last id whose piece is `text`; single bytes come first in the vocabulary and are rarely the one in use.

        Raises:
            ValueError: no piece is `text`.
        """
        surface = text.encode()
        for index in range(len(self._pieces) - 1, -1, -1):
            if self._pieces[index] == surface:
                return index
        raise ValueError(f"the vocabulary has no piece {text!r}")

    def decode(self, ids: Iterable[int]) -> str:
        """Joins the pieces of `ids`; control pieces vanish, bytes that are not UTF-8 become U+FFFD.

        Raises:
            IndexError: an id is not in the vocabulary.
        """
        joined = b"".join(self._pieces[index] for index in ids)
        return joined.decode("utf-8", errors="replace").strip()

    def word_confidences(self, ids: Sequence[int], probabilities: Sequence[float]) -> NDArray[np.float32]:
        """The confidence in each word of ``decode(ids).split()``: that of its least probable piece.

        Pieces that are nothing but marks do not count; a word that is nothing but marks has 1.
        """
        words: list[float] = []
        is_open = False
        for index, probability in zip(ids, probabilities, strict=False):
            for part in re.split(rb"(\s+)", self._pieces[index]):
                if not part:
                    continue
                if part.isspace():
                    is_open = False
                    continue
                if not is_open:
                    words.append(1.0)
                    is_open = True
                if _is_spoken(part):
                    words[-1] = min(words[-1], probability)
        return np.array(words, np.float32)


def _is_spoken(part: bytes) -> bool:
    """Letters, digits, or bytes that may be a piece of one."""
    return any(byte >= 128 or chr(byte).isalnum() for byte in part)


def _surface(index: int, piece: bytes) -> bytes:
    if _FIRST_BYTE <= index <= _LAST_BYTE:
        return piece
    if index < _FIRST_BYTE or (piece.startswith(b"<<ST_") and piece.endswith(b">>")):
        return b""
    return piece.replace(_SPACE, b" ")


def _read_pieces(data: bytes, path: Path) -> list[bytes]:
    """Each piece follows its length: one byte below 128, else the low seven bits and then the next seven."""
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        length, at = data[at], at + 1
        if length >= 128 and at < len(data):
            length, at = data[at] * 128 + length - 128, at + 1
        if at + length > len(data):
            raise ValueError(f"{path} ends in the middle of a piece: download it again")
        pieces.append(data[at : at + length])
        at += length
    return pieces
