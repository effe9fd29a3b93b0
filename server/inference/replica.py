"""A model at one Triton, and all of a model's replicas together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from server.inference.client import ModelShape, ModelState

FIRST_LIMIT = 4
"""Windows at once at a model that does not tell how it is served."""


class Client(Protocol):
    """The calls to one Triton; see `TritonClient`."""

    address: str

    async def infer(self, request: ModelInferRequest, timeout_s: float) -> ModelInferResponse: ...  # noqa: D102
    async def is_live(self, timeout_s: float) -> bool: ...  # noqa: D102
    async def model_state(self, model: str, timeout_s: float) -> ModelState: ...  # noqa: D102
    async def shape(self, model: str, timeout_s: float) -> ModelShape: ...  # noqa: D102
    async def progress(self, model: str, timeout_s: float) -> int: ...  # noqa: D102
    async def load(self, model: str, timeout_s: float) -> None: ...  # noqa: D102
    async def unload(self, model: str, timeout_s: float) -> None: ...  # noqa: D102
    async def close(self) -> None: ...  # noqa: D102


class Triton:
    """One Triton server.

    Attributes:
        client: its connection.
        last_heard: when it last answered anything.
        live: set while it counts as alive.
        check: set to have it asked at once whether it is.
        healing: held by whoever loads or unloads its models.
    """

    def __init__(self, client: Client, now: float) -> None:
        self.client = client
        self.last_heard = now
        self.live = asyncio.Event()
        self.live.set()
        self.check = asyncio.Event()
        self.healing = asyncio.Lock()

    @property
    def address(self) -> str:
        """`host:port`."""
        return self.client.address


@dataclass(slots=True, eq=False)
class Replica:
    """A model at one Triton.

    Attributes:
        given_limit: windows at once, if the operator says; else as many as suit its shape.
        shape: how it is served there; None until it has said so.
        has_died: one of its processes was found dead. Others may answer, but it must be healed.
        in_flight: calls under way, probes not counted.
        is_up: whether it gets work.
        reason: why it does not.
        last_good: when it last answered an inference well.
        last_moved: when it was last seen at work although it did not answer in time.
        suspect: set to have it probed at once.
        probed: set after its first probe.
        healed_at: when it was last unloaded and loaded.
        heal_pause: how long after that it may be done again.
    """

    triton: Triton
    model: str
    given_limit: int = 0
    shape: ModelShape | None = None
    has_died: bool = False
    in_flight: int = 0
    is_up: bool = False
    reason: str = "not tried yet"
    last_good: float | None = None
    last_moved: float = 0.0
    suspect: asyncio.Event = field(default_factory=asyncio.Event)
    probed: asyncio.Event = field(default_factory=asyncio.Event)
    healed_at: float | None = None
    heal_pause: float = 0.0

    @property
    def limit(self) -> int:
        """How many calls may be under way."""
        return self.given_limit or (self.shape.in_flight if self.shape is not None else FIRST_LIMIT)

    @property
    def address(self) -> str:
        """Of its Triton."""
        return self.triton.address


class Pool:
    """All replicas of a model."""

    def __init__(self, name: str, replicas: Sequence[Replica], probe: ModelInferRequest, now: float) -> None:
        self.name = name
        self.replicas = tuple(replicas)
        self.probe = probe
        self.wanted_at = now
        """When somebody last wanted something of it."""
        self._down_since: float | None = now
        self._down_s = 0.0

    @property
    def is_up(self) -> bool:
        """Whether any replica gets work."""
        return any(replica.is_up for replica in self.replicas)

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return sum(replica.in_flight for replica in self.replicas)

    @property
    def last_good(self) -> float | None:
        """When any replica last answered an inference well."""
        return max((r.last_good for r in self.replicas if r.last_good is not None), default=None)

    def pick(self, avoid: str = "") -> Replica | None:
        """The replica with least to do that is up and has room; one at `avoid` only if there is no other."""
        free = [replica for replica in self.replicas if replica.is_up and replica.in_flight < replica.limit]
        return min(free, key=lambda replica: (replica.address == avoid, replica.in_flight), default=None)

    def has_other(self, replica: Replica) -> bool:
        """Whether another replica is up."""
        return any(other.is_up for other in self.replicas if other is not replica)

    def note_change(self, now: float) -> bool:
        """Keeps account of the time without any replica; true if that time has just begun or ended."""
        if self.is_up and self._down_since is not None:
            self._down_s += now - self._down_since
            self._down_since = None
            return True
        if not self.is_up and self._down_since is None:
            self._down_since = now
            return True
        return False

    def down_seconds(self, now: float) -> float:
        """How long it has been without any replica, in all."""
        return self._down_s + (now - self._down_since if self._down_since is not None else 0.0)
