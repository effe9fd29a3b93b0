"""What all sessions of a process share."""

from __future__ import annotations

from dataclasses import dataclass

from server.audio.vad import VadService
from server.inference.service import Inference
from server.metrics import Metrics
from session_store.base import SessionStore, TranscriptStore


@dataclass(frozen=True, slots=True)
class Parts:
    """The services and stores that sessions use, and how they use them."""

    vad: VadService
    inference: Inference
    sessions: SessionStore
    transcripts: TranscriptStore
    metrics: Metrics
    ttl_s: float
    """How long the stored state lives after the last sign of its owner."""
    log_transcripts: bool = False
    """Whether what was said may stand in the log."""
