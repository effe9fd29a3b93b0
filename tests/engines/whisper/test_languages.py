from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.whisper.languages import LANGUAGES, whisper_code


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        ("es", "es"),
        ("pt-BR", "pt"),
        ("ZH_hant_TW", "zh"),
        (" fr ", "fr"),
        ("iw", "he"),
        ("nb-NO", "no"),
        ("fil", "tl"),
        ("auto", "auto"),
        ("haw", "haw"),
    ],
)
def test_known_tags(tag: str, code: str) -> None:
    assert whisper_code(tag) == code


@pytest.mark.parametrize("tag", ["", "xx", "klingon", "transcribe", "-", "e s"])
def test_unknown_tags(tag: str) -> None:
    assert whisper_code(tag) is None


def test_the_table_is_the_models_own(whisper_dir: Path) -> None:
    tokens = {
        token["content"]: token["id"]
        for token in json.loads((whisper_dir / "tokenizer.json").read_text())["added_tokens"]
    }
    marks = {text.strip("<|>") for text, index in tokens.items() if tokens["<|en|>"] <= index < tokens["<|translate|>"]}
    assert marks == LANGUAGES
