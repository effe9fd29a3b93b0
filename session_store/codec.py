"""What every backend writes the same way: checked ids, clean text, a session's state as JSON."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from session_store.base import SessionState

MAX_ID_CHARS = 128
_HASH_BYTES = hashlib.sha256().digest_size


def is_id(value: str) -> bool:
    """Whether every backend can hold `value` as a key: at most 128 printable characters without spaces.

    SQL servers disagree on trailing spaces and on NUL; an id with either could stand for another session.
    """
    return 0 < len(value) <= MAX_ID_CHARS and value.isprintable() and " " not in value


def check_id(value: str, name: str = "session_id", *, may_be_empty: bool = False) -> str:
    """`value`, if `is_id`.

    Raises:
        ValueError: it is not.
    """
    if not value and may_be_empty:
        return value
    if not is_id(value):
        raise ValueError(f"{name} must be 1 to {MAX_ID_CHARS} printable characters without spaces")
    return value


def check_hash(value: bytes, name: str) -> bytes:
    """`value`, if it has the length of a SHA-256 digest: a store must never get to see the secret itself.

    Raises:
        ValueError: it has not.
    """
    if len(value) != _HASH_BYTES:
        raise ValueError(f"{name} must be a SHA-256 digest, {_HASH_BYTES} bytes")
    return value


def utc_day(unix: float) -> int:
    """The number of a UTC day, from UNIX seconds."""
    return int(unix // 86400)


def clean_text(text: str) -> str:
    """`text` without what some backends refuse to hold: NUL (PostgreSQL) and lone surrogates (UTF-8)."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def dump_state(state: SessionState) -> bytes:
    """The state without its id, hash and key, as JSON.

    Raises:
        ValueError: the id is not a legal one, or `token_hash` is not a SHA-256 hash: a store must never get to see
            the token itself.
    """
    check_id(state.session_id)
    check_id(state.key_id, "key_id", may_be_empty=True)
    check_hash(state.token_hash, "token_hash")
    return orjson.dumps(
        {
            "settings": state.settings,
            "acked": state.acked,
            "next_seq": state.next_seq,
            "tail": clean_text(state.tail),
            "marks": state.marks,
        }
    )


def load_state(session_id: str, token_hash: bytes, key_id: str, body: bytes) -> SessionState:
    """The inverse of `dump_state`. Unknown fields, of a newer version's making, are ignored."""
    fields: dict[str, Any] = orjson.loads(body)
    return SessionState(
        session_id=session_id,
        token_hash=token_hash,
        key_id=key_id,
        settings=fields["settings"],
        acked=fields["acked"],
        next_seq=fields["next_seq"],
        tail=fields["tail"],
        marks=tuple(fields["marks"]),
    )
