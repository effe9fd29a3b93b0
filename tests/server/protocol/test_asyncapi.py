"""The description of the protocols for machines says what the code does."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any, get_args

import jsonschema
import pytest
import yaml

from launcher.paths import SOURCE_ROOT
from server.audio.codec import ENCODINGS
from server.protocol import stream, telephone
from server.protocol.close import CloseCode
from server.session.messages import (
    Ack,
    Done,
    Error,
    Finalized,
    Message,
    Opened,
    Partial,
    SpeechEnded,
    SpeechStarted,
)
from server.session.settings import (
    MAX_ENDPOINT_MS,
    MAX_SAMPLE_RATE,
    MIN_ENDPOINT_MS,
    MIN_SAMPLE_RATE,
    SessionSettings,
)
from session_store.base import Final

DESCRIPTION: dict[str, Any] = yaml.safe_load((SOURCE_ROOT / "docs" / "asyncapi.yaml").read_text())
MESSAGES: dict[str, Any] = DESCRIPTION["components"]["messages"]
PAGE = (SOURCE_ROOT / "docs" / "protocol.md").read_text()
LANGUAGES = frozenset({"en", "te"})

SENT: list[Message] = [
    Opened("id", "id.secret", True, "en", "mulaw", 8000, 160, 2, 60.0),
    Partial("it was", "en", 0, 0.1, 1.2, 3),
    Final(0, "It was.", 0.1, 1.2, "en", 0.87, True),
    Ack(16000),
    SpeechStarted(0.5),
    SpeechEnded(1.5),
    Finalized("a1", 16000),
    Finalized(None, 16000),
    Error(CloseCode.INVALID, "no", recoverable=True),
    Error(CloseCode.OVERLOADED, "later", recoverable=False, retry_after_ms=500),
    Done(16000, 1, 1.0),
]


def schema(name: str) -> dict[str, Any]:
    return {**MESSAGES[name]["payload"], "components": DESCRIPTION["components"]}


def referred(operation: str) -> set[str]:
    return {entry["$ref"].rpartition("/")[2] for entry in DESCRIPTION["operations"][operation]["messages"]}


@pytest.mark.parametrize("message", SENT, ids=lambda message: type(message).__name__)
def test_what_the_server_sends_is_as_described(message: Message) -> None:
    values = json.loads(stream.encode(message))
    described = schema(values["type"])
    jsonschema.validate(values, described)
    assert set(described["required"]) <= set(values) <= set(described["properties"])


def test_every_message_of_the_server_is_described_and_no_other() -> None:
    assert {type(message) for message in SENT} == set(get_args(Message))
    assert {json.loads(stream.encode(message))["type"] for message in SENT} == referred("transcribe")


@pytest.mark.parametrize("name", sorted(referred("speak") - {"audio"}))
def test_the_examples_of_what_clients_send_are_understood(name: str) -> None:
    for example in MESSAGES[name]["examples"]:
        payload = example["payload"]
        jsonschema.validate(payload, schema(name))
        request = stream.parse(json.dumps(payload), LANGUAGES)
        if isinstance(request, stream.Start):
            assert not request.complaints
            assert set(request.values) == set(payload) - {"type"}


def test_every_request_of_the_code_is_described() -> None:
    with pytest.raises(stream.InvalidMessageError) as refused:
        stream.parse("{}", LANGUAGES)
    known = set(re.findall(r"\b(start|resume|finalize|keepalive|end)\b", str(refused.value)))
    assert referred("speak") == known | {"audio", "language"}
    assert set(MESSAGES["start"]["payload"]["properties"]) == {"type"} | {
        field.name for field in dataclasses.fields(SessionSettings) if field.name != "detected"
    }


def test_the_limits_are_those_of_the_code() -> None:
    schemas = DESCRIPTION["components"]["schemas"]
    assert schemas["encoding"]["enum"] == list(ENCODINGS)
    assert (schemas["sample_rate"]["minimum"], schemas["sample_rate"]["maximum"]) == (
        MIN_SAMPLE_RATE,
        MAX_SAMPLE_RATE,
    )
    start = MESSAGES["start"]["payload"]["properties"]
    assert start["endpoint_silence_ms"]["minimum"] == MIN_ENDPOINT_MS
    assert start["endpoint_silence_ms"]["maximum"] == MAX_ENDPOINT_MS
    assert start["session_label"]["maxLength"] == stream.MAX_LABEL
    assert MESSAGES["finalize"]["payload"]["properties"]["id"]["maxLength"] == stream.MAX_ID


def test_the_close_codes_are_those_of_the_code() -> None:
    codes = {int(code) for code in CloseCode}
    assert set(MESSAGES["error"]["payload"]["properties"]["code"]["enum"]) == codes
    assert {int(code) for code in re.findall(r"^\| (\d{4}) \|", PAGE, re.MULTILINE)} == codes


def test_the_telephone_is_as_described() -> None:
    for message in SENT:
        text = telephone.encode(message)
        if text is not None:
            jsonschema.validate(json.loads(text), schema("call_text"))
    channel = DESCRIPTION["channels"]["telephone"]
    query = channel["bindings"]["ws"]["query"]["properties"]
    target = channel["address"].replace("{session_id}", "call-1") + "?encoding=alaw&language=te&after=3"
    call = telephone.parse(target, LANGUAGES)
    assert (call.encoding, call.language, call.after) == ("alaw", "te", 3)
    assert set(query) == {"encoding", "language", "after"}


def test_the_page_names_every_message_and_field() -> None:
    for name in referred("transcribe") | referred("speak") - {"audio"}:
        for field in MESSAGES[name]["payload"]["properties"]:
            assert f"`{field}`" in PAGE or f'"{field}"' in PAGE, f"docs/protocol.md does not name {name}.{field}"
