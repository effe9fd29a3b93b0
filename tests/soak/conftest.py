"""The long tests break their own Triton and gateways: the fixtures are those of the end-to-end tests."""

from __future__ import annotations

from tests.end_to_end.conftest import installation, make_gateway, make_triton, triton

__all__ = ["installation", "make_gateway", "make_triton", "triton"]
