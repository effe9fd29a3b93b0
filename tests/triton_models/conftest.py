"""The real Triton that the end-to-end tests start, for this room's tests too."""

from __future__ import annotations

from tests.end_to_end.conftest import installation, triton

__all__ = ["installation", "triton"]
