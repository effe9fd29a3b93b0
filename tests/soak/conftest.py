"""The long tests break their own Triton and gateways: the fixtures are those of the end-to-end tests."""

from __future__ import annotations

from tests.end_to_end.conftest import make_gateway, make_triton

__all__ = ["make_gateway", "make_triton"]
