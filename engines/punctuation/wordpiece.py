"""The encoder's tokenizer as a function from a form to its piece ids."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from engines.punctuation.features import Pieces


def load_pieces(path: Path, *, remembered: int = 50_000) -> Pieces:
    """Loads a ``tokenizer.json``; the latest ``remembered`` forms are kept, for most words come again.

    Raises FileNotFoundError where there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer at {path}")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    @lru_cache(maxsize=remembered)
    def pieces(form: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(form, add_special_tokens=False).ids)

    return pieces
