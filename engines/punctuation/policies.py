"""Whose marks a final gets: the one table of languages."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Policy(StrEnum):
    """What the marks and the casing of a final come from."""

    ASR = "asr"
    """The ASR model's own text, unchanged."""

    MODEL = "model"
    """The punctuation model alone; the ASR model's marks and casing are thrown away."""

    BOTH = "both"
    """The punctuation model, which reads the ASR model's marks and casing as evidence."""


POLICIES: Mapping[str, Policy] = MappingProxyType({"en": Policy.BOTH})
"""The policy by language, chosen by F1 (see docs/punctuation.md). A language that is not here keeps the ASR's marks."""


def policy_of(language: str, policies: Mapping[str, Policy] = POLICIES) -> Policy:
    """The policy for a language code; ``en-GB`` and ``en_gb`` count as ``en``."""
    return policies.get(language.replace("_", "-").split("-")[0].lower(), Policy.ASR)


def parse_policies(setting: str) -> dict[str, Policy]:
    """Reads a setting such as ``en=both,es=asr``, which changes `POLICIES` for the languages that it names.

    Raises ValueError, saying what is wrong, for anything else. An empty setting changes nothing.
    """
    policies = dict(POLICIES)
    for entry in filter(None, (part.strip() for part in setting.split(","))):
        language, separator, name = entry.partition("=")
        if not separator or not language.strip():
            raise ValueError(f"'{entry}' is not LANGUAGE=POLICY; write for example en=both")
        try:
            policies[language.strip().lower()] = Policy(name.strip().lower())
        except ValueError:
            known = ", ".join(Policy)
            raise ValueError(f"'{name.strip()}' is not a punctuation policy; use one of {known}") from None
    return policies
