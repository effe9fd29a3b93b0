"""What can go wrong with an inference, sorted by what follows from it."""

from __future__ import annotations

from enum import StrEnum

import grpc


class Fault(StrEnum):
    """What a failed call says about the model."""

    REFUSED = "refused"
    """The model does not take this request: asking again is of no use."""
    FAILED = "failed"
    """The model answered with an error: it may be the request, it may be the model."""
    LATE = "late"
    """No answer in time: overload, or it hangs."""
    DEAD = "dead"
    """The process that runs the model is dead: perhaps this request killed it."""
    GONE = "gone"
    """Nobody is there to ask: no connection, or no such model."""


class InferenceError(Exception):
    """A call to Triton that failed."""

    def __init__(self, fault: Fault, reason: str) -> None:
        super().__init__(reason)
        self.fault = fault
        self.reason = reason


_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
}
_ABSENCES = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND}

DEAD_STUB = "is not healthy"
"""Part of what Triton says, as INTERNAL, when the process that runs a model has died."""


def from_rpc(error: grpc.aio.AioRpcError) -> InferenceError:
    """Sorts gRPC's error."""
    code, details = error.code(), error.details() or ""
    reason = f"{code.name}: {details[:300]}"
    if code in _REFUSALS:
        return InferenceError(Fault.REFUSED, reason)
    if DEAD_STUB in details:
        return InferenceError(Fault.DEAD, reason)
    if code in _ABSENCES:
        return InferenceError(Fault.GONE, reason)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return InferenceError(Fault.LATE, "no answer in time")
    return InferenceError(Fault.FAILED, reason)
