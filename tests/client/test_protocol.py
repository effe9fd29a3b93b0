from __future__ import annotations

import json
import random
from typing import Any

import pytest

from starling_client.errors import ConnectError, ProtocolError, SessionClosedError, SessionError, SessionLostError
from starling_client.events import Done, ErrorEvent, Event, Final, Finalized, Partial, Reconnected
from starling_client.protocol import Phase, ResumeNeeded, SessionProtocol
from starling_client.retry import FATAL_CLOSES, RESUMABLE_CLOSES, Failed, Finished, Retry, parse_retry_after
from starling_client.settings import ResumePolicy, SessionSettings


def make(**policy: Any) -> SessionProtocol:
    return SessionProtocol(SessionSettings(), ResumePolicy(**policy), now=0.0, rng=random.Random(0))


def session_message(**fields: Any) -> str:
    base = {
        "type": "session",
        "session_id": "s",
        "token": "secret",
        "resumed": False,
        "language": "en",
        "encoding": "pcm_s16le",
        "sample_rate": 16000,
        "audio_offset": 0,
        "next_seq": 0,
        "resume_window_s": 60,
    }
    return json.dumps(base | fields)


def final(seq: int, **fields: Any) -> str:
    base = {"type": "final", "text": f"Final {seq}.", "is_final": True, "language": "en", "seq": seq}
    return json.dumps(base | {"start": seq, "end": seq + 0.5, "confidence": 0.5, "punctuated": True} | fields)


def partial(seq: int) -> str:
    base = {"type": "partial", "text": "hel", "is_final": False, "language": "en", "seq": seq}
    return json.dumps(base | {"start": 0, "end": 1, "stable": 0})


def live(**policy: Any) -> SessionProtocol:
    client = make(**policy)
    client.connection_opened()
    client.next_frame()
    client.receive(session_message())
    return client


def tell(client: SessionProtocol, **message: Any) -> list[Event]:
    return client.receive(json.dumps(message))


def sent(client: SessionProtocol) -> list[Any]:
    frames: list[Any] = []
    while (frame := client.next_frame()) is not None:
        frames.append(frame if isinstance(frame, bytes) else json.loads(frame))
    return frames


def resume(client: SessionProtocol, now: float = 0.0, **session: Any) -> tuple[dict[str, Any], list[Event]]:
    assert isinstance(client.connection_lost(1006, "", now), Retry)
    return reopen(client, **session)


def reopen(client: SessionProtocol, **session: Any) -> tuple[dict[str, Any], list[Event]]:
    client.connection_opened()
    hello = client.next_frame()
    assert isinstance(hello, str)
    return json.loads(hello), client.receive(session_message(resumed=True, **session))


def test_the_start_says_what_was_chosen_and_leaves_the_rest_to_the_server() -> None:
    settings = SessionSettings(language="fr", encoding="mulaw", sample_rate=8000, endpoint_silence_ms=300)
    client = SessionProtocol(settings, ResumePolicy(), now=0.0)
    client.connection_opened()
    assert sent(client) == [
        {
            "type": "start",
            "encoding": "mulaw",
            "sample_rate": 8000,
            "partials": True,
            "punctuate": True,
            "language": "fr",
            "endpoint_silence_ms": 300,
        }
    ]


@pytest.mark.parametrize(
    "wrong", [{"encoding": "mp3"}, {"sample_rate": 7999}, {"sample_rate": 48001}, {"endpoint_silence_ms": 100}]
)
def test_settings_that_the_server_would_refuse_are_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SessionSettings(**wrong)


def test_audio_waits_for_the_session_and_controls_keep_their_place() -> None:
    client = make()
    client.write_audio(b"abc")
    client.finalize("f")
    client.write_audio(b"defg")
    client.connection_opened()
    assert len(sent(client)) == 1
    client.receive(session_message())
    assert sent(client) == [b"abc", {"type": "finalize", "id": "f"}, b"defg"]


def test_a_resume_goes_back_to_the_last_acknowledged_sample_through_a_split_one() -> None:
    client = live(max_frame_bytes=7)
    client.write_audio(bytes(range(15)))
    sent(client)
    tell(client, type="ack", audio_offset=3)
    hello, events = resume(client, audio_offset=7)
    assert hello == {"type": "resume", "token": "secret", "last_seq": -1, "from_offset": 3}
    assert events == [Reconnected(1, audio_offset=7, resent_samples=4)]
    client.write_audio(bytes([15]))
    assert b"".join(sent(client)) == bytes(range(6, 16))


def test_a_server_that_wants_forgotten_audio_is_reported_as_a_gap() -> None:
    client = live()
    client.write_audio(bytes(20))
    sent(client)
    tell(client, type="ack", audio_offset=8)
    _, events = resume(client, audio_offset=5)
    assert events == [Reconnected(1, audio_offset=5, resent_samples=0, gap_samples=3)]


def test_a_final_that_is_replayed_is_not_told_again() -> None:
    client = live()
    assert client.receive(final(0))
    hello, _ = resume(client)
    assert hello["last_seq"] == 0
    assert client.receive(final(0)) == []
    assert client.receive(partial(0)) == []
    assert [event.seq for event in client.receive(final(1)) if isinstance(event, Final)] == [1]
    assert [event.seq for event in client.receive(partial(2)) if isinstance(event, Partial)] == [2]


def test_a_missing_final_is_asked_for_again_and_not_passed_over() -> None:
    client = live()
    client.receive(final(0))
    for _ in range(2):
        with pytest.raises(ResumeNeeded, match="one is missing"):
            client.receive(final(2))
        hello, _ = resume(client)
        assert hello["last_seq"] == 0
    with pytest.raises(ProtocolError):
        client.receive(final(2))


def test_a_finalize_whose_answer_was_lost_is_answered_by_the_acknowledgement() -> None:
    client = live()
    client.write_audio(bytes(20))
    client.finalize("f")
    client.write_audio(bytes(20))
    sent(client)
    _, _ = resume(client, audio_offset=20, next_seq=1)
    assert not any(isinstance(frame, dict) for frame in sent(client)), "the server had handled it"
    assert client.receive(final(0))
    events = tell(client, type="ack", audio_offset=12)
    assert events[1:] == [Finalized("f", 10)]
    assert tell(client, type="finalized", id="f", audio_offset=10) == []


def test_a_finalize_that_the_server_did_not_reach_is_sent_again() -> None:
    client = live()
    client.write_audio(bytes(20))
    client.finalize("f")
    sent(client)
    resume(client, audio_offset=0)
    assert sent(client) == [bytes(20), {"type": "finalize", "id": "f"}]


def test_the_language_is_told_again_as_it_was_at_the_resumed_sample() -> None:
    client = live()
    client.write_audio(bytes(20))
    client.set_language("es")
    client.write_audio(bytes(20))
    client.set_language("fr")
    sent(client)
    tell(client, type="ack", audio_offset=15)
    resume(client, audio_offset=15, language="fr")
    assert sent(client) == [{"language": "es"}, bytes(10), {"language": "fr"}]


@pytest.mark.parametrize("code", sorted(RESUMABLE_CLOSES))
def test_closes_that_can_be_resumed(code: int) -> None:
    assert isinstance(live().connection_lost(code, "", 0.0), Retry)


@pytest.mark.parametrize("code", [*sorted(FATAL_CLOSES), 1000, 4999])
def test_closes_that_are_for_good(code: int) -> None:
    client = live()
    verdict = client.connection_lost(code, "the reason", 0.0)
    assert isinstance(verdict, Failed)
    assert isinstance(verdict.error, SessionError)
    assert verdict.error.code == code
    assert "the reason" in str(verdict.error)
    assert client.phase is Phase.FAILED
    with pytest.raises(SessionClosedError):
        client.write_audio(b"x")


def stray(client: SessionProtocol, code: int = 1006) -> None:
    """Sends a resume that gets no answer."""
    assert isinstance(client.connection_lost(1006, "", 0.0), Retry)
    client.connection_opened()
    assert client.next_frame() is not None
    assert isinstance(client.connection_lost(code, "", 0.0), Retry)
    reopen(client)


@pytest.mark.parametrize("code", [1006, 1001, 1013])
def test_what_a_late_resume_of_ones_own_took_is_taken_back_once(code: int) -> None:
    client = live()
    stray(client, code)
    assert isinstance(client.connection_lost(4103, "taken over", 0.0), Retry)
    reopen(client)
    assert isinstance(client.connection_lost(4103, "taken over", 0.0), Failed)


def test_a_resume_that_was_not_sent_takes_nothing_back() -> None:
    client = live()
    assert isinstance(client.connection_lost(1006, "", 0.0), Retry)
    client.connection_opened()
    resume(client)
    assert isinstance(client.connection_lost(4103, "taken over", 0.0), Failed)


def test_an_unknown_close_after_a_recoverable_error_is_resumed() -> None:
    client = live()
    tell(client, type="error", code=4999, message="later", recoverable=True)
    assert isinstance(client.connection_lost(4999, "", 0.0), Retry)


def test_an_earlier_complaint_is_not_taken_for_the_reason_of_a_break() -> None:
    client = live()
    tell(client, type="error", code=1011, message="the models are away", recoverable=True, retry_after_ms=50_000)
    verdict = client.connection_lost(1006, "", 0.0)
    assert isinstance(verdict, Retry)
    assert verdict.delay_s < 1.0
    assert verdict.cause == "close 1006"


def test_waits_grow_up_to_a_cap_are_jittered_and_keep_what_the_server_asked_for() -> None:
    client = live(backoff_base_s=1.0, backoff_cap_s=4.0, reconnect_timeout_s=1e6)
    delays = []
    for _ in range(200):
        verdict = client.connection_lost(1006, "", 0.0)
        assert isinstance(verdict, Retry)
        delays.append(verdict.delay_s)
        client.connection_opened()
    assert delays[0] <= 1.0
    assert delays[1] <= 2.0
    assert 3.0 < max(delays) <= 4.0
    assert min(delays[5:]) < 1.0
    tell(client, type="error", code=1013, message="full", recoverable=True, retry_after_ms=7000)
    verdict = client.connection_lost(1013, "", 0.0)
    assert isinstance(verdict, Retry)
    assert 7.0 <= verdict.delay_s <= 11.0


def test_progress_makes_the_next_wait_short_again() -> None:
    client = live(backoff_base_s=1.0, backoff_cap_s=1000.0, reconnect_timeout_s=1e6)
    for _ in range(9):
        resume(client)
    client.receive(final(0))
    verdict = client.connection_lost(1006, "", 0.0)
    assert isinstance(verdict, Retry)
    assert verdict.delay_s <= 1.0


def test_a_server_that_does_not_come_back_within_the_resume_window_is_given_up() -> None:
    client = live()
    verdict = client.connection_lost(1006, "", 100.0)
    now = 100.0
    while isinstance(verdict, Retry):
        now += verdict.delay_s
        verdict = client.connect_failed("refused", now)
    assert isinstance(verdict, Failed)
    assert isinstance(verdict.error, SessionLostError)
    assert 150 < now <= 160


def test_a_first_connection_that_nobody_answers_fails_at_once() -> None:
    verdict = make().connect_failed("connection refused", 0.0)
    assert isinstance(verdict, Failed)
    assert isinstance(verdict.error, ConnectError)


@pytest.mark.parametrize(("status", "advice"), [(401, "api_key"), (403, "origin"), (404, "/stream"), (426, "proxy")])
def test_refusals_that_are_for_good_say_what_to_do(status: int, advice: str) -> None:
    verdict = make().connect_failed("refused", 0.0, status=status)
    assert isinstance(verdict, Failed)
    assert isinstance(verdict.error, ConnectError)
    assert verdict.error.status == status
    assert advice in str(verdict.error)


def test_a_full_server_is_asked_again_when_it_said_and_not_beyond_the_limit() -> None:
    client = make(connect_timeout_s=10.0)
    verdict = client.connect_failed("full", 0.0, status=503, retry_after_s=3.0)
    assert isinstance(verdict, Retry)
    assert 3.0 <= verdict.delay_s < 4.0
    verdict = client.connect_failed("full", 4.0, status=503, retry_after_s=30.0)
    assert isinstance(verdict, Failed)
    assert isinstance(verdict.error, ConnectError)
    assert (verdict.error.status, verdict.error.retry_after_s) == (503, 30.0)


def test_a_done_that_was_lost_is_made_up_only_where_everything_was_acknowledged() -> None:
    for acknowledged, complete in ((10, True), (9, False)):
        client = live()
        client.write_audio(bytes(20))
        client.end()
        sent(client)
        client.receive(final(0))
        tell(client, type="ack", audio_offset=acknowledged)
        client.connection_lost(1006, "", 0.0)
        client.connection_opened()
        verdict = client.connection_lost(4004, "no such session", 0.0)
        if complete:
            assert verdict == Finished(Done(10, 1, 10 / 16000))
        else:
            assert isinstance(verdict, Failed)
            assert "may be missing" in str(verdict.error)


def test_done_ends_the_session_and_must_not_count_more_finals_than_came() -> None:
    client = live()
    client.end()
    sent(client)
    with pytest.raises(ProtocolError, match="1 segments"):
        tell(client, type="done", audio_offset=0, segments=1, audio_seconds=0.0)
    assert tell(client, type="done", audio_offset=0, segments=0, audio_seconds=0.0) == [Done(0, 0, 0.0)]
    assert client.connection_lost(1000, "", 0.0) == Finished(None)
    with pytest.raises(SessionClosedError):
        client.end()


def test_a_done_that_was_lost_is_taken_when_the_server_repeats_it_on_a_resume() -> None:
    client = live()
    client.write_audio(bytes(20))
    client.end()
    sent(client)
    hello, _ = resume(client, audio_offset=10, next_seq=1)
    assert hello["last_seq"] == -1
    assert client.receive(final(0))
    done = Done(10, 1, 0.001)
    assert tell(client, type="done", audio_offset=10, segments=1, audio_seconds=0.001) == [done]
    assert client.connection_lost(1000, "", 0.0) == Finished(None)


def test_speech_that_is_heard_again_is_not_told_again() -> None:
    client = live()
    assert tell(client, type="speech_started", at=1.0)
    assert tell(client, type="speech_ended", at=2.0)
    resume(client)
    assert tell(client, type="speech_started", at=1.0) == []
    assert tell(client, type="speech_ended", at=2.0) == []
    assert tell(client, type="speech_started", at=2.5)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"\x00", "binary"),
        ("no json", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not an object"),
        ('{"type":"final","text":"x"}', "malformed"),
        ('{"type":"ack","audio_offset":1}', "acknowledged"),
        (session_message(), "not asked for"),
        ('{"type":"done","audio_offset":0,"segments":0,"audio_seconds":0}', "before the end"),
    ],
)
def test_what_the_server_must_not_send_is_an_error_that_says_so(frame: str | bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        live().receive(frame)


def test_a_first_message_other_than_session_is_refused_but_an_error_is_told() -> None:
    client = make()
    client.connection_opened()
    assert isinstance(tell(client, type="error", code=4000, message="x", recoverable=False)[0], ErrorEvent)
    with pytest.raises(ProtocolError, match="not session"):
        client.receive(final(0))


def test_messages_of_a_later_version_are_passed_over() -> None:
    assert tell(live(), type="speaker_changed", at=1.0) == []


def test_audio_in_another_format_than_asked_for_is_refused() -> None:
    client = make()
    client.connection_opened()
    with pytest.raises(ProtocolError, match="8000 Hz"):
        client.receive(session_message(sample_rate=8000))


def test_room_is_bounded_by_what_is_not_acknowledged() -> None:
    client = live(max_unacknowledged_s=1.0)
    assert client.write_audio(bytes(40_000)) == 32_000
    sent(client)
    assert client.room == 0
    tell(client, type="ack", audio_offset=100)
    assert client.room == 200


def test_the_token_is_not_shown() -> None:
    assert "secret" not in repr(live().info)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("12", 12.0), ("-3", 0.0), ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0), ("soon", None)],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, now=60.0) == seconds
