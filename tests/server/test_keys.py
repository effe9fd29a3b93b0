"""The keys file: what is written, who is known by it, and a gateway's view of it while it changes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from server.keys import MAX_FILE_BYTES, Keys, KeysError, add_key, read_keys, revoke_key, write_keys

NOW = datetime(2030, 1, 2, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "keys.json"


@pytest.fixture
def log() -> Iterator[list[object]]:
    with capture_logs() as entries:
        yield entries  # type: ignore[misc]


def test_a_key_is_known_by_its_text_and_nothing_else(path: Path) -> None:
    key, text = add_key(path, "phone", sessions=3, hours_per_day=2.5)
    other, other_text = add_key(path, "page")
    keys = Keys(path)
    assert keys.find(text) == key
    assert keys.find(other_text) == other
    swapped = f"sk_{other.id}_{text.rpartition('_')[2]}"
    for wrong in ("", "sk_", "sk__", key.id, text[:-1], text + "x", text.upper(), swapped, key.sha256, "é" * 300):
        assert keys.find(wrong) is None, wrong


@given(st.text())
def test_no_text_is_a_key_by_chance_or_breaks_the_search(text: str) -> None:
    assert KNOWN.find(text) is None
    assert KNOWN.find(f"sk_{next(iter(KNOWN._keys))}_{text}") is None


def test_the_file_holds_nothing_that_opens_a_door(path: Path) -> None:
    _, text = add_key(path, "phone")
    content = path.read_text()
    assert text not in content
    assert text.split("_", 2)[2] not in content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "sha256" not in repr(Keys(path).find(text))


def test_secrets_have_256_bits_and_never_come_twice(path: Path) -> None:
    texts = {add_key(path, "phone")[1] for _ in range(20)}
    assert len(texts) == 20
    assert all(len(text.split("_", 2)[2]) >= 43 for text in texts)
    assert len(read_keys(path)) == 20


def test_revoking_takes_one_key_away(path: Path) -> None:
    first, first_text = add_key(path, "first")
    _, second_text = add_key(path, "second")
    assert revoke_key(path, first.id) == first
    keys = Keys(path)
    assert keys.find(first_text) is None
    assert keys.find(second_text) is not None
    with pytest.raises(KeysError, match="starling keys list"):
        revoke_key(path, first.id)


def test_an_expired_key_is_none(path: Path) -> None:
    key, text = add_key(path, "phone", expires=NOW)
    now = NOW - timedelta(seconds=1)
    keys = Keys(path, now=lambda: now)
    assert keys.find(text) == key
    assert keys.get(key.id) == key
    now = NOW
    assert keys.find(text) is None
    assert keys.get(key.id) is None


@pytest.mark.parametrize(
    ("options", "named"),
    [({"name": ""}, "name"), ({"name": "x", "sessions": 0}, "sessions"), ({"name": "x", "hours_per_day": -1}, "hours")],
)
def test_values_that_make_no_key_are_refused(path: Path, options: dict[str, object], named: str) -> None:
    with pytest.raises(KeysError, match=named):
        add_key(path, **options)  # type: ignore[arg-type]
    assert not path.exists()


BROKEN = {
    "no JSON": "{",
    "a list": "[]",
    "no UTF-8": b"\xff\xfe",
    "another version": '{"version": 2, "keys": []}',
    "an unknown field": '{"version": 1, "keys": [], "more": 1}',
    "a key in clear": '{"version": 1, "keys": [{"id": "aaaaaaaa", "name": "x", "key": "sk_secret"}]}',
    "a short hash": json.dumps(
        {"keys": [{"id": "aaaaaaaa", "name": "x", "sha256": "sk_secret", "created": "2026-01-01T00:00:00Z"}]}
    ),
    "a date without zone": json.dumps(
        {"keys": [{"id": "aaaaaaaa", "name": "x", "sha256": "0" * 64, "created": "2026-01-01T00:00:00"}]}
    ),
    "one id twice": json.dumps(
        {"keys": [{"id": "aaaaaaaa", "name": "x", "sha256": "0" * 64, "created": "2026-01-01T00:00:00Z"}] * 2}
    ),
    "too much": b" " * (MAX_FILE_BYTES + 1),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=list(BROKEN))
def test_a_broken_file_is_refused_at_the_start_and_shows_nothing(path: Path, content: str | bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(KeysError) as refused:
        Keys(path)
    assert str(path) in str(refused.value)
    assert "sk_secret" not in str(refused.value)


def test_a_missing_file_says_what_to_do(path: Path) -> None:
    with pytest.raises(KeysError, match="starling keys add"):
        Keys(path)


@pytest.mark.parametrize("content", BROKEN.values(), ids=list(BROKEN))
def test_a_file_that_breaks_later_changes_nothing_and_is_logged_once(
    path: Path, content: str | bytes, log: list[dict[str, object]]
) -> None:
    key, text = add_key(path, "phone")
    keys = Keys(path)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert not keys.refresh()
    assert not keys.refresh()
    assert keys.find(text) == key
    assert [entry["log_level"] for entry in log] == ["error"]
    path.unlink()
    assert not keys.refresh()
    assert keys.find(text) == key
    write_keys(path, {})
    assert keys.refresh()
    assert keys.find(text) is None


def test_changes_are_followed(path: Path) -> None:
    first, _ = add_key(path, "first")
    keys = Keys(path)
    assert not keys.refresh()
    _, text = add_key(path, "second")
    assert keys.find(text) is None
    assert keys.refresh()
    assert keys.find(text) is not None
    revoke_key(path, first.id)
    assert keys.refresh()
    assert keys.get(first.id) is None


def test_a_link_stays_one(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    real = tmp_path / "real.json"
    path.symlink_to(real)
    add_key(path, "phone")
    assert path.is_symlink()
    assert len(read_keys(real)) == 1


def test_a_file_that_others_may_write_is_warned_of(path: Path, log: list[dict[str, object]]) -> None:
    add_key(path, "phone")
    path.chmod(0o622)
    Keys(path)
    assert any("chmod" in str(entry["event"]) for entry in log)


def test_a_folder_that_cannot_be_written_gives_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(KeysError, match="cannot be written"):
        add_key(file / "keys.json", "phone")
    folder = tmp_path / "keys.json"
    folder.mkdir()
    with pytest.raises(KeysError):
        write_keys(folder, {})
    assert sorted(os.listdir(tmp_path)) == ["file", "keys.json"]


def test_processes_that_add_at_once_lose_nothing(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from server.keys import add_key\n"
        "for n in range(5): add_key(Path(sys.argv[1]), f'{sys.argv[2]}-{n}')"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, str(path), str(number)]) for number in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    names = [key.name for key in read_keys(path).values()]
    assert sorted(names) == sorted(f"{process}-{n}" for process in range(4) for n in range(5))


def _known() -> Keys:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.json"
        add_key(path, "phone")
        return Keys(path)


KNOWN = _known()
