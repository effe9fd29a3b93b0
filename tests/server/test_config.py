from __future__ import annotations

import os
from pathlib import Path

import pytest

from server.config import ConfigError, Settings, describe, is_loopback, load
from server.session.settings import Policy


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("STARLING_") or name == "DEFAULT_LANGUAGE":
            monkeypatch.delenv(name)


def test_defaults() -> None:
    settings = load()
    assert (settings.host, settings.port, settings.default_language) == ("127.0.0.1", 8000, "en")
    assert {"en", "fr", "auto"} <= settings.languages
    assert settings.session_store_url.startswith("sqlite:////")
    assert settings.session_store_url.endswith("/.starling/sessions.sqlite")
    assert settings.transcript_store_url.endswith("/.starling/transcripts.sqlite")


def test_the_default_policy_is_that_of_the_core() -> None:
    assert load().policy == Policy()


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARLING_PORT", "9000")
    monkeypatch.setenv("STARLING_MODELS", '{"asr": ["en"], "other": ["te"]}')
    monkeypatch.setenv("STARLING_STATE_DIR", "/var/lib/starling")
    monkeypatch.setenv("STARLING_SESSION_STORE", "redis://r")
    settings = load()
    assert settings.port == 9000
    assert settings.languages == {"en", "te"}
    assert settings.session_store_url == "redis://r"
    assert settings.transcript_store_url == "sqlite:////var/lib/starling/transcripts.sqlite"


@pytest.mark.parametrize("name", ["DEFAULT_LANGUAGE", "STARLING_DEFAULT_LANGUAGE"])
def test_the_default_language_has_two_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "fr")
    assert load().default_language == "fr"


def test_values_in_code_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARLING_PORT", "9000")
    assert load(port=9001, state_dir=Path("/x")).port == 9001


def test_slow_models_have_a_policy_of_their_own() -> None:
    policies = load().policies
    assert "en" not in policies
    assert (policies["es"].hop_windows, policies["es"].max_segment_s, policies["auto"].trim_after_s) == (5, 12, 4.5)
    changed = load(windows={"asr": {"hop_ms": 640}}, speech_threshold=0.6).policies
    assert set(changed) == {"en"}
    assert (changed["en"].hop_windows, changed["en"].max_segment_s, changed["en"].speech_threshold) == (20, 20, 0.6)


def test_a_windows_setting_that_is_unknown_is_refused() -> None:
    with pytest.raises(ConfigError, match="STARLING_WINDOWS"):
        load(windows={"asr": {"hop": 640}})


def test_the_policy_follows_the_settings() -> None:
    policy = load(hop_ms=640, max_segment_s=10, speech_threshold=0.1).policy
    assert (policy.hop_windows, policy.max_segment_s) == (20, 10)
    assert policy.silence_threshold == 0.01
    assert load(hop_ms=32).policy.hop_windows == 1


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("STARLING_PORT", "eight", "STARLING_PORT: Input should be a valid integer"),
        ("STARLING_PORT", "65536", "STARLING_PORT: Input should be less than or equal to 65535"),
        ("STARLING_ENDPOINT_SILENCE_MS", "100", "STARLING_ENDPOINT_SILENCE_MS: Input should be greater"),
        ("STARLING_LOG_LEVEL", "loud", "STARLING_LOG_LEVEL: Input should be 'debug'"),
        ("STARLING_TLS_KEY", "/k.pem", "settings: tls_certificate and tls_key go together: set both or neither"),
        ("STARLING_DEFAULT_LANGUAGE", "xx", "settings: default_language: no model serves 'xx'; choose one of"),
        ("STARLING_MODELS", "{not json", "STARLING_MODELS: must be JSON"),
        ("STARLING_MODELS", '["en"]', "STARLING_MODELS: Input should be a valid dictionary"),
        ("STARLING_ALLOWED_ORIGINS", "https://a", "STARLING_ALLOWED_ORIGINS: must be JSON"),
    ],
)
def test_what_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, text: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load()
    assert str(caught.value).startswith(text)


def test_all_faults_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARLING_PORT", "x")
    monkeypatch.setenv("STARLING_WORKERS", "0")
    with pytest.raises(ConfigError, match=r"STARLING_PORT: .*; STARLING_WORKERS: "):
        load()


def test_every_setting_is_described() -> None:
    rows = {name: (default, meaning) for name, default, meaning in describe()}
    assert len(rows) == len(Settings.model_fields)
    assert rows["STARLING_PORT"][0] == "8000"
    assert rows["STARLING_TLS_KEY"][0] == ""
    assert all(meaning for _, meaning in rows.values())


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("/run/starling.sock", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.1", False),
        ("example.org", False),
        ("127.example.com", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
