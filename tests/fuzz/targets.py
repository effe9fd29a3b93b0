"""What is fuzzed: functions of bytes that hold for all bytes. Hypothesis and atheris call the same ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import orjson

from server.audio.codec import ENCODINGS, encode_alaw, encode_mulaw, make_decoder
from server.protocol import stream, telephone
from server.session.messages import Error
from server.session.settings import SessionSettings
from session_store.codec import is_id

LANGUAGES = frozenset({"en", "fr", "te", "auto"})
MAX_ERROR_CHARS = 300

Target = Callable[[bytes], None]


def stream_text(data: bytes) -> None:
    """Any text frame is a request whose values can be used as they are, or is refused in few words."""
    text = data.decode("utf-8", "surrogateescape")
    for frame in (data, text):
        try:
            request = stream.parse(frame, LANGUAGES)
        except stream.InvalidMessageError as error:
            _check_words(str(error))
            continue
        _check_request(request)


def stream_fields(data: bytes) -> None:
    """As `stream_text`, but the bytes choose among the fields and values of real messages."""
    values = {name: _VALUES[data[at + 1] % len(_VALUES)] for at, name in _pairs(data)}
    for value in values.values():
        assert value is None or isinstance(value, str | int | float | list | dict)
    try:
        request = stream.parse(orjson.dumps(values, default=str), LANGUAGES)
    except stream.InvalidMessageError as error:
        _check_words(str(error))
    else:
        _check_request(request)


def telephone_path(data: bytes) -> None:
    """Any request target is a call with a short id and sensible values, or is refused; it may name a session."""
    target = telephone.PREFIX + data.decode("latin-1")
    named = stream.returning_session(target)
    assert named is None or is_id(named)
    try:
        call = telephone.parse(target, LANGUAGES)
    except stream.InvalidMessageError as error:
        _check_words(str(error))
        return
    assert 0 < len(call.session_id) <= 120
    assert call.session_id.isascii()
    assert call.session_id.isprintable()
    assert call.encoding in ("mulaw", "alaw")
    assert call.language is None or call.language in LANGUAGES
    assert call.after is None or -1 <= call.after <= stream.MAX_OFFSET


def codec(data: bytes) -> None:
    """Audio cut anywhere decodes to the same int16 samples, and no more of them than there are bytes."""
    encoding = ENCODINGS[data[0] % len(ENCODINGS)] if data else ENCODINGS[0]
    cuts, audio = data[1:9], data[9:]
    whole = make_decoder(encoding)
    samples = whole.decode(audio)
    assert samples.dtype == np.int16
    assert len(samples) == len(audio) // whole.sample_width
    assert whole.pending == len(audio) % whole.sample_width
    pieces = make_decoder(encoding)
    parts, at = [], 0
    for cut in cuts:
        parts.append(pieces.decode(memoryview(audio)[at : at + cut]))
        at += cut
    parts.append(pieces.decode(audio[at:]))
    assert np.array_equal(np.concatenate(parts), samples)
    if encoding in ("mulaw", "alaw"):
        encode = encode_mulaw if encoding == "mulaw" else encode_alaw
        again = make_decoder(encoding).decode(encode(samples))
        assert np.array_equal(again, samples)


TARGETS: dict[str, Target] = {target.__name__: target for target in (stream_text, stream_fields, telephone_path, codec)}

SEEDS: dict[str, tuple[bytes, ...]] = {
    "stream_text": (
        b'{"language":"te"}',
        b'{"type":"start","language":"en","encoding":"mulaw","sample_rate":8000,"partials":false,"session_label":"x"}',
        b'{"type":"resume","token":"0123456789abcdef.secret","last_seq":3,"from_offset":160000}',
        b'{"type":"finalize","id":"a1"}',
        b'{"type":"end"}',
    ),
    "telephone_path": (b"call-17", b"call%2D17?encoding=alaw&language=FR-fr&after=-1", b"x?after=3&after=4&&=;"),
}
"""Where fuzzing begins, for targets whose inputs are seldom found by chance."""

_NAMES = (
    "type",
    "language",
    "encoding",
    "sample_rate",
    "partials",
    "punctuate",
    "endpoint_silence_ms",
    "session_label",
    "token",
    "last_seq",
    "from_offset",
    "id",
)
_VALUES: tuple[object, ...] = (
    *("start", "resume", "finalize", "keepalive", "end", "begin", "", "en", "EN-us", "auto", "tlh", "x" * 300),
    *("pcm_s16le", "pcm_f32le", "mulaw", "alaw", "mp3", "\0", "\ud7ff", "é" * 90),
    *(0, 1, -1, 200, 3000, 8000, 16000, 48000, 48001, 2**53, 2**53 + 1, 2**64 - 1, -(2**63)),
    *(True, False, None, 0.0, 1.5, 16000.0, 1e308),
    *([], {}, ["start"], {"type": "start"}, [[[[]]]]),
)


def _pairs(data: bytes) -> list[tuple[int, str]]:
    return [(at, _NAMES[data[at] % len(_NAMES)]) for at in range(0, len(data) - 1, 2)]


def _check_words(text: str) -> None:
    assert 0 < len(text) <= MAX_ERROR_CHARS, text
    # They go back to the client as JSON.
    stream.encode(Error(4000, text, recoverable=False))


def _check_request(request: stream.Request) -> None:
    match request:
        case stream.Start():
            settings = SessionSettings(**request.values)
            assert SessionSettings.from_json(orjson.loads(orjson.dumps(settings.to_json()))) == settings
            for complaint in request.complaints:
                _check_words(complaint)
        case stream.Resume():
            assert 0 < len(request.token) <= stream.MAX_TOKEN
            assert -1 <= request.last_seq <= stream.MAX_OFFSET
            assert 0 <= request.from_offset <= stream.MAX_OFFSET
        case stream.Finalize():
            assert request.id is None or len(request.id) <= stream.MAX_ID
