"""Which languages the multilingual engine hears, by code."""

from __future__ import annotations

AUTO = "auto"

_CODES = """
af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is
it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk
sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo zh
"""

LANGUAGES = frozenset(_CODES.split())
"""Whisper's own codes."""

_ALIASES = {"cmn": "zh", "fil": "tl", "in": "id", "iw": "he", "ji": "yi", "jv": "jw", "mo": "ro", "nb": "no"}


def whisper_code(tag: str) -> str | None:
    """Whisper's code for a BCP 47 tag such as ``pt-BR``; ``auto`` stays; None for a language it does not know."""
    primary = tag.strip().lower().replace("_", "-").split("-")[0]
    code = _ALIASES.get(primary, primary)
    return code if code in LANGUAGES or code == AUTO else None
