"""Every setting of the gateway, from the environment: `STARLING_PORT=9000` and so on.

`docs/configuration.md` is generated from this module.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from server.session.settings import MAX_ENDPOINT_MS, MIN_ENDPOINT_MS, VAD_WINDOW, Policy
from session_store.factory import default_session_url, default_transcript_url

WHISPER_LANGUAGES = frozenset(
    """
    af am ar as az ba be bg bn bo br bs ca cs cy da de el es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is it
    ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl
    sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo zh
    """.split()
)
"""What Whisper base was trained on."""


class ConfigError(Exception):
    """The settings do not fit together; the text says which and what to do."""


class Windows(BaseModel):
    """How one model's speech is cut, where it is not as `hop_ms`, `max_segment_s` and the core's own policy say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hop_ms: int | None = Field(default=None, ge=32, le=5000)
    max_segment_s: float | None = Field(default=None, ge=5, le=28)
    trim_after_s: float | None = Field(default=None, ge=3, le=28)


class Settings(BaseSettings):
    """The gateway's settings. Durations end in `_s` or `_ms`, sizes in `_bytes`."""

    model_config = SettingsConfigDict(env_prefix="STARLING_", extra="ignore", frozen=True)

    # Where it listens
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port for WebSockets and plain HTTP; 0 takes a free one.")
    workers: int = Field(1, ge=1, le=256, description="Gateway processes that share the port.")
    tls_certificate: Path | None = Field(None, description="PEM file with the certificate chain; reloaded on change.")
    tls_key: Path | None = Field(None, description="PEM file with the certificate's private key.")

    # Where things lie
    cache_dir: Path = Field(Path("~/.cache/starling"), description="Downloads, weights and Triton's environment.")
    state_dir: Path = Field(Path(".starling"), description="SQLite files, logs and the model repository.")

    # Speech
    default_language: str = Field(
        "en",
        validation_alias=AliasChoices("STARLING_DEFAULT_LANGUAGE", "DEFAULT_LANGUAGE"),
        description="Language of sessions that name none.",
    )
    models: dict[str, list[str]] = Field(
        default={"asr": ["en"], "asr_multilingual": ["auto", *sorted(WHISPER_LANGUAGES - {"en"})]},
        description="Which model on Triton serves which languages: JSON, model name to language codes.",
    )
    endpoint_silence_ms: int = Field(
        500, ge=MIN_ENDPOINT_MS, le=MAX_ENDPOINT_MS, description="Silence that ends a segment, unless the client says."
    )
    hop_ms: int = Field(256, ge=32, le=5000, description="New speech between two partials.")
    long_segment_s: float = Field(
        10, ge=1, le=28, description="From this length on a segment ends at two fifths of the silence that ends others."
    )
    max_segment_s: float = Field(20, ge=5, le=28, description="Longest segment; longer speech is cut at a quiet point.")
    windows: dict[str, Windows] = Field(
        # A slow model: what a window costs is added to what the hop costs, and the final's decode to the pause.
        default={"asr_multilingual": Windows(hop_ms=160, max_segment_s=12)},
        description="Other hop_ms, max_segment_s or trim_after_s (longest window of a partial) for a model: JSON.",
    )
    speech_threshold: float = Field(0.5, gt=0, lt=1, description="Probability from which audio counts as speech.")

    # Triton
    triton_addresses: list[str] = Field(
        default=[], description='gRPC addresses of running Tritons as JSON, ["host:port"]; none starts one here.'
    )
    triton_grpc_port: int = Field(8001, ge=1, le=65535, description="gRPC port of the Triton that is started here.")
    triton_http_port: int = Field(8003, ge=1, le=65535, description="Its HTTP port.")
    triton_metrics_port: int = Field(8002, ge=1, le=65535, description="Its metrics port.")
    triton_device: Literal["cpu", "cuda"] = Field("cpu", description="Where the models of that Triton compute.")
    max_in_flight: int = Field(
        0, ge=0, le=1024, description="Windows at Triton at once, for each model; 0: as many as suit its instances."
    )
    partial_timeout_s: float = Field(2, gt=0, description="After this a partial's window is given up.")
    final_timeout_s: float = Field(10, gt=0, description="After this a final's window is sent again.")
    final_deadline_s: float = Field(90, gt=0, description="After this a final is given up.")
    punctuation_languages: list[str] = Field(default=["en"], description="Languages that the punctuation model serves.")
    punctuation_timeout_s: float = Field(1, gt=0, description="After this a final goes without its marks.")

    # Stores
    session_store: str = Field(
        "", description="memory://, sqlite:///FILE or redis://HOST; empty is SQLite in state_dir."
    )
    transcript_store: str = Field(
        "", description="sqlite:///FILE, mysql://... or postgresql://...; empty is SQLite in state_dir."
    )
    store_timeout_s: float = Field(2, gt=0, description="After this a store counts as out of reach.")
    retention_days: float | None = Field(None, gt=0, description="Transcripts older than this are deleted.")

    # Sessions and limits
    resume_window_s: float = Field(60, ge=1, le=86400, description="How long a broken session can be resumed.")
    idle_timeout_s: float = Field(60, gt=0, description="A connection that sends nothing for so long is closed.")
    max_session_s: float = Field(4 * 3600, gt=0, description="Longest connection.")
    max_sessions: int = Field(200, ge=1, description="Sessions at once in each process; beyond it clients get 503.")
    resume_reserve: int = Field(
        50, ge=0, description="Sessions beyond max_sessions, for those that come back from another server."
    )
    max_final_delay_s: float = Field(1.5, gt=0, description="Finals later than this: new sessions get 503.")
    max_partial_delay_s: float = Field(2.5, gt=0, description="Partials later than this: new sessions get 503.")
    max_frame_bytes: int = Field(1 << 18, ge=1024, le=1 << 24, description="Largest WebSocket message.")
    max_controls_per_s: float = Field(20, gt=0, description="Text messages a connection may send, with bursts of 3 s.")
    max_outbox: int = Field(256, ge=8, description="Messages that may wait for a client that does not read.")
    send_timeout_s: float = Field(20, gt=0, description="A client that takes no byte for so long is cut off.")
    drain_s: float = Field(8, gt=0, le=600, description="Longest time from SIGTERM to exit.")

    # Access
    keys_file: Path | None = Field(
        None, description="API keys, hashed; made by `starling keys`. None: no keys asked for."
    )
    allow_no_keys: bool = Field(False, description="Listen on other addresses than loopback without keys.")
    allowed_origins: list[str] = Field(
        default=[], description="Origins of web pages that may connect, as JSON; * is any."
    )
    telephony_without_keys: bool = Field(True, description="Serve /ws/transcribe/{id} where no keys are asked for.")

    # Watching it
    log_format: Literal["auto", "console", "json"] = Field("auto", description="auto: readable on a terminal.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_transcripts: bool = Field(False, description="Write what was said into the log.")
    otlp_endpoint: str = Field("", description="OpenTelemetry collector for traces; empty sends none.")

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together: set both or neither")
        served = {code for codes in self.models.values() for code in codes}
        if self.default_language not in served:
            known = ", ".join(sorted(served))
            raise ValueError(f"default_language: no model serves {self.default_language!r}; choose one of {known}")
        return self

    @property
    def languages(self) -> frozenset[str]:
        """Every language that clients may ask for."""
        return frozenset(code for codes in self.models.values() for code in codes)

    @property
    def session_store_url(self) -> str:
        """With the default filled in."""
        return self.session_store or default_session_url(self.state_dir.expanduser().absolute())

    @property
    def transcript_store_url(self) -> str:
        """With the default filled in."""
        return self.transcript_store or default_transcript_url(self.state_dir.expanduser().absolute())

    @property
    def policy(self) -> Policy:
        """What of this concerns the session core."""
        return Policy(
            speech_threshold=self.speech_threshold,
            silence_threshold=max(0.01, self.speech_threshold - 0.15),
            hop_windows=_windows(self.hop_ms),
            long_segment_s=self.long_segment_s,
            max_segment_s=self.max_segment_s,
        )

    @property
    def policies(self) -> dict[str, Policy]:
        """Where it is another for some languages: that of the model which serves them."""
        found: dict[str, Policy] = {}
        for model, languages in self.models.items():
            given = self.windows.get(model, Windows())
            changes: dict[str, Any] = given.model_dump(exclude_none=True)
            if "hop_ms" in changes:
                changes["hop_windows"] = _windows(changes.pop("hop_ms"))
            if changes:
                found |= dict.fromkeys(set(languages) - set(found), replace(self.policy, **changes))
        return found


def _windows(milliseconds: int) -> int:
    return max(1, round(milliseconds * 16 / VAD_WINDOW))


def load(**overrides: object) -> Settings:
    """Reads the settings from the environment, and those with passwords in them from files if wanted.

    `STARLING_SECRETS_DIR` names a folder whose files are named like settings, `starling_session_store` for one.

    Raises:
        ConfigError: a value is out of range or does not fit with another.
    """
    folder = os.environ.get("STARLING_SECRETS_DIR") or None
    if folder is not None and not os.path.isdir(folder):
        raise ConfigError(f"STARLING_SECRETS_DIR: there is no folder {folder}")
    given: dict[str, Any] = {"_secrets_dir": folder, **overrides}
    try:
        return Settings(**given)
    except SettingsError as error:
        # Its text names the field in quotes and nothing else of use.
        name = str(error).partition('"')[2].partition('"')[0].upper()
        raise ConfigError(f'STARLING_{name}: must be JSON, such as ["a", "b"] or {{"asr": ["en"]}}') from None
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = "_".join(map(str, problem["loc"][:1])) or "settings"
            shown = name if name.isupper() else f"STARLING_{name.upper()}"
            lines.append(
                f"{shown if name != 'settings' else 'settings'}: {problem['msg'].removeprefix('Value error, ')}"
            )
        raise ConfigError("; ".join(lines)) from None


def describe() -> list[tuple[str, str, str]]:
    """Name in the environment, default and meaning of every setting, for the documentation."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if name == "windows":
            default = {model: given.model_dump(exclude_none=True) for model, given in default.items()}
        rows.append((f"STARLING_{name.upper()}", "" if default is None else str(default), field.description or ""))
    return rows


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    if host == "localhost" or os.path.isabs(host):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name, "127.example.com" among them, leads wherever its owner wants
