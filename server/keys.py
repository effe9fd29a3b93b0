"""API keys: the file that holds their hashes, how it is changed, and how a running gateway follows it.

A key is ``sk_<id>_<secret>`` with 256 random bits in the secret. The file holds the key's SHA-256, so that who reads it
cannot connect; a slow hash would add nothing to so many random bits.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

log = structlog.get_logger(__name__)

PREFIX = "sk_"
MAX_KEY_CHARS = 200
MAX_FILE_BYTES = 1 << 22
"""Some 15,000 keys."""

_NO_HASH = bytes(32)
"""Compared with where no key has the id; the hash of no key."""


class KeysError(Exception):
    """The keys file cannot be read or written; the text says what to do and holds nothing secret."""


class Key(BaseModel):
    """One API key as it stands in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{8,32}$")
    name: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    created: AwareDatetime
    expires: AwareDatetime | None = None
    sessions: int | None = Field(None, ge=1, description="Concurrent sessions, over all gateways.")
    hours_per_day: float | None = Field(None, gt=0, description="Audio in a UTC day, over all gateways.")

    def is_valid(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.expires is None or now < self.expires


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    keys: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> _File:
        ids = [key.id for key in self.keys]
        if len(set(ids)) < len(ids):
            raise ValueError("two keys have the same id")
        return self


# --- the file


def read_keys(path: Path) -> dict[str, Key]:
    """The keys in the file, by id, in its order.

    Raises:
        KeysError: there is no such file, or it is not one of keys.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeysError(
            f"the keys file {path} cannot be read ({error.strerror}): make a key with `starling keys add NAME`"
        ) from None
    if len(content) > MAX_FILE_BYTES:
        raise KeysError(f"the keys file {path} is over {MAX_FILE_BYTES} bytes: revoke keys that nobody uses")
    try:
        parsed = _File.model_validate_json(content)
    except ValidationError as error:
        # The input itself is not shown: somebody may have written a key there in clear.
        problem = error.errors(include_input=False, include_context=False, include_url=False)[0]
        where = ".".join(map(str, problem["loc"])) or "file"
        raise KeysError(f"the keys file {path} is not valid: {where}: {problem['msg']}") from None
    return {key.id: key for key in parsed.keys}


def write_keys(path: Path, keys: Mapping[str, Key]) -> None:
    """Replaces the file in one step, readable by this user only; a link is followed, not replaced."""
    path = path.resolve()
    content = _File(keys=tuple(keys.values())).model_dump_json(indent=2, exclude_none=True) + "\n"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise KeysError(f"the keys file {path} cannot be written: {error.strerror}") from None


def add_key(
    path: Path,
    name: str,
    *,
    sessions: int | None = None,
    hours_per_day: float | None = None,
    expires: datetime | None = None,
) -> tuple[Key, str]:
    """Makes a key and adds it to the file, which is made if need be; returns it and the key itself, shown never again.

    Raises:
        KeysError: a value cannot be had, or the file cannot be read or written.
    """
    with _locked(path):
        keys = read_keys(path) if path.exists() else {}
        identifier = _new_id(keys)
        text = f"{PREFIX}{identifier}_{secrets.token_urlsafe(32)}"
        try:
            key = Key(
                id=identifier,
                name=name,
                sha256=_hash(text).hex(),
                created=datetime.now(UTC).replace(microsecond=0),
                expires=expires,
                sessions=sessions,
                hours_per_day=hours_per_day,
            )
        except ValidationError as error:
            problem = error.errors(include_input=False, include_context=False, include_url=False)[0]
            raise KeysError(f"{problem['loc'][0]}: {problem['msg']}") from None
        write_keys(path, {**keys, identifier: key})
    return key, text


def revoke_key(path: Path, identifier: str) -> Key:
    """Takes a key out of the file and returns it.

    Raises:
        KeysError: there is no such key, or the file cannot be read or written.
    """
    with _locked(path):
        keys = read_keys(path)
        revoked = keys.pop(identifier, None)
        if revoked is None:
            raise KeysError("there is no key with this id: `starling keys list` shows them")
        write_keys(path, keys)
    return revoked


def _new_id(keys: Mapping[str, Key]) -> str:
    while (identifier := secrets.token_hex(4)) in keys:
        pass
    return identifier


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One change at a time; the lock goes with the process that holds it."""
    path = path.resolve()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise KeysError(f"the keys file {path} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Makes the renaming survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- a running gateway's view of it


@dataclass(frozen=True, slots=True)
class FileMark:
    """What changes when a file is written or replaced; zeros where there is none."""

    device: int = 0
    inode: int = 0
    size: int = 0
    modified_ns: int = 0

    @classmethod
    def of(cls, path: Path) -> FileMark:
        """Of the file that `path` leads to."""
        try:
            stat = path.stat()
        except OSError:
            return cls()
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


class Keys:
    """The keys of a file that may change at any time.

    Args:
        path: the file.
        now: the present time, for keys that expire.

    Raises:
        KeysError: the file cannot be read, at the start.
    """

    def __init__(self, path: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._now = now
        self._mark = FileMark.of(path)
        self._keys = read_keys(path)
        self._warn()

    def __len__(self) -> int:
        return len(self._keys)

    def refresh(self) -> bool:
        """Reads the file again if it has changed; one that is broken leaves the keys as they are, and is logged.

        Costs one `stat` where nothing has changed. Returns whether there are new keys.
        """
        mark = FileMark.of(self._path)
        if mark == self._mark:
            return False
        self._mark = mark
        try:
            keys = read_keys(self._path)
        except KeysError as error:
            log.error("keys file not taken over: the keys before it go on", error=str(error))
            return False
        self._keys = keys
        log.info("keys read", keys=len(keys))
        self._warn()
        return True

    def find(self, text: str) -> Key | None:
        """The valid key that `text` is; compared in constant time."""
        identifier = text.removeprefix(PREFIX).partition("_")[0] if text.startswith(PREFIX) else ""
        key = self._keys.get(identifier) if len(text) <= MAX_KEY_CHARS else None
        known = bytes.fromhex(key.sha256) if key is not None else _NO_HASH
        is_same = hmac.compare_digest(known, _hash(text[:MAX_KEY_CHARS]))
        return key if key is not None and is_same and key.is_valid(self._now()) else None

    def get(self, identifier: str) -> Key | None:
        """The valid key with this id."""
        key = self._keys.get(identifier)
        return key if key is not None and key.is_valid(self._now()) else None

    def _warn(self) -> None:
        if not self._keys:
            log.warning("there are no keys: nobody can connect until `starling keys add NAME`", file=str(self._path))
        try:
            if self._path.stat().st_mode & 0o022:
                log.warning("others may write the keys file: chmod 600", file=str(self._path))
        except OSError:
            pass


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
