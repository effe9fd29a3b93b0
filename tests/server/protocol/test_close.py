from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.protocol.close import MAX_REASON, RECOVERABLE, CloseCode, Closing


def test_codes_are_those_of_the_protocol() -> None:
    assert sorted(CloseCode) == [1000, 1001, 1008, 1009, 1011, 1013, 4000, 4004, 4008, 4031, 4103, 4104]
    assert sorted(RECOVERABLE) == [1001, 1011, 1013, 4031]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200))
def test_a_reason_fits_a_close_frame(message: str) -> None:
    reason = Closing(CloseCode.INVALID, message, retry_after_ms=5).reason
    assert len(reason.encode()) <= MAX_REASON
    assert message.startswith(reason)
    assert len(reason) == len(message) or len(message.encode()) > MAX_REASON
