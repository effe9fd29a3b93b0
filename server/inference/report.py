"""How inference does, as values: for /readyz, `starling doctor` and whoever asks."""

from __future__ import annotations

from dataclasses import dataclass

from server.inference.replica import Pool


@dataclass(frozen=True, slots=True)
class ReplicaHealth:
    """A model at one Triton; `reason` says why it gets no work."""

    address: str
    is_up: bool
    reason: str
    in_flight: int


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """A model. `last_inference_age_s` is None before its first good answer."""

    name: str
    is_up: bool
    last_inference_age_s: float | None
    in_flight: int
    waiting_finals: int
    waiting_partials: int
    replicas: tuple[ReplicaHealth, ...]


@dataclass(frozen=True, slots=True)
class InferenceHealth:
    """All of it. `is_healthy`: every speech model has answered an inference lately."""

    is_healthy: bool
    models: tuple[ModelHealth, ...]


def model_health(pool: Pool, now: float, waiting_finals: int = 0, waiting_partials: int = 0) -> ModelHealth:
    """What a pool looks like at `now`."""
    return ModelHealth(
        name=pool.name,
        is_up=pool.is_up,
        last_inference_age_s=round(now - pool.last_good, 3) if pool.last_good is not None else None,
        in_flight=pool.in_flight,
        waiting_finals=waiting_finals,
        waiting_partials=waiting_partials,
        replicas=tuple(ReplicaHealth(r.address, r.is_up, r.reason, r.in_flight) for r in pool.replicas),
    )
