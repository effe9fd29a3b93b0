"""The Python client for Starling: speech in, typed events out, over connections that may break.

    async with starling_client.connect("ws://127.0.0.1:8000/stream", sample_rate=16000) as session:
        async for event in session.stream(chunks):
            if isinstance(event, starling_client.Final):
                print(event.text)

`starling_client.sync` is the same without asyncio; `starling_client.microphone` brings in the microphone.
"""

from __future__ import annotations

import ssl as ssl_module

from starling_client.errors import (
    BackpressureError,
    ConnectError,
    MicrophoneError,
    ProtocolError,
    SessionClosedError,
    SessionError,
    SessionLostError,
    StarlingError,
)
from starling_client.events import (
    Ack,
    Done,
    ErrorEvent,
    Event,
    Final,
    Finalized,
    Partial,
    Reconnected,
    Reconnecting,
    SessionStarted,
    SpeechEnded,
    SpeechStarted,
)
from starling_client.session import Session
from starling_client.settings import ResumePolicy, SessionSettings

__all__ = [
    "Ack",
    "BackpressureError",
    "ConnectError",
    "Done",
    "ErrorEvent",
    "Event",
    "Final",
    "Finalized",
    "MicrophoneError",
    "Partial",
    "ProtocolError",
    "Reconnected",
    "Reconnecting",
    "ResumePolicy",
    "Session",
    "SessionClosedError",
    "SessionError",
    "SessionLostError",
    "SessionSettings",
    "SessionStarted",
    "SpeechEnded",
    "SpeechStarted",
    "StarlingError",
    "connect",
]


def connect(
    url: str,
    *,
    language: str | None = None,
    encoding: str = "pcm_s16le",
    sample_rate: int = 16000,
    partials: bool = True,
    punctuate: bool = True,
    endpoint_silence_ms: int | None = None,
    session_label: str | None = None,
    api_key: str | None = None,
    policy: ResumePolicy | None = None,
    ssl: ssl_module.SSLContext | None = None,
) -> Session:
    """Return a session at `url` (ws:// or wss://, path /stream), to be entered with `async with`.

    `encoding` is `pcm_s16le`, `pcm_f32le`, `mulaw` or `alaw`, mono, at `sample_rate` 8000 to 48000 Hz. What is None is
    left to the server. `api_key` is sent as a bearer token. `policy` says how hard the client tries to keep the
    session. Raises ValueError for a setting that the server would refuse; entering raises ConnectError.
    """
    settings = SessionSettings(
        language=language,
        encoding=encoding,
        sample_rate=sample_rate,
        partials=partials,
        punctuate=punctuate,
        endpoint_silence_ms=endpoint_silence_ms,
        session_label=session_label,
    )
    return Session(url, settings, policy or ResumePolicy(), api_key=api_key, ssl=ssl)
