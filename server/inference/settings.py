"""What inference has to be told: where Triton is, which model hears which language, and how long anything may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """One speech model on Triton.

    Attributes:
        name: as Triton knows it.
        languages: codes that it is asked for; `auto` where it finds the language out by itself.
        max_in_flight: windows at one Triton at once; 0: as many as suit the way it serves the model. The more, the
            larger the batches and the longer each takes.
    """

    name: str
    languages: frozenset[str]
    max_in_flight: int = 0


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """Settings of `Inference`. All times in seconds.

    Attributes:
        addresses: of Triton's gRPC ports, `host:port`; all serve the same models.
        models: the first one that has a language gets its windows.
        punctuation_languages: what the punctuation model serves; none: there is no such model.
        punctuation_model: its name.
        punctuation_in_flight: texts at one Triton at once.
        partial_timeout_s: a partial that takes longer is given up.
        final_timeout_s: the first try of a final that takes longer is given up; each one after that may take twice
            as long as the one before.
        final_deadline_s: a final that has had so long, not counting the time in which no Triton could be asked, fails.
        outage_deadline_s: ... and counting that time.
        punctuation_timeout_s: a text that takes longer goes without its marks.
        retry_first_s: pause before a final is tried again where there is no other Triton to try; then twice as long.
        retry_longest_s: up to this.
        final_errors: a final that the model itself has answered with an error this often fails.
        live_interval_s: a Triton that has said nothing for so long is asked whether it is alive.
        live_timeout_s: and counts as gone if it does not answer in this time.
        probe_interval_s: a model that has answered nothing for so long gets a synthetic window ...
        idle_probe_interval_s: ... or for so long, if nobody has wanted anything of it since.
        probe_timeout_s: how long that one may take.
        heal_first_s: pause between two attempts to heal a model; then twice as long.
        heal_longest_s: up to this.
        heal_jitter_s: a random wait before each, so that several gateways do not all do it.
        stuck_after_s: a model that lets time run out, and has not been seen at work for so long, is healed too.
        load_timeout_s: how long loading or unloading a model may take.
    """

    addresses: tuple[str, ...]
    models: tuple[ModelRoute, ...]
    punctuation_languages: frozenset[str] = frozenset()
    punctuation_model: str = "punctuation"
    punctuation_in_flight: int = 16
    partial_timeout_s: float = 2.0
    final_timeout_s: float = 10.0
    final_deadline_s: float = 60.0
    outage_deadline_s: float = 600.0
    punctuation_timeout_s: float = 0.5
    retry_first_s: float = 0.1
    retry_longest_s: float = 2.0
    final_errors: int = 6
    live_interval_s: float = 0.5
    live_timeout_s: float = 1.0
    probe_interval_s: float = 2.0
    idle_probe_interval_s: float = 10.0
    probe_timeout_s: float = 4.0
    heal_first_s: float = 1.0
    heal_longest_s: float = 30.0
    heal_jitter_s: float = 0.3
    stuck_after_s: float = 30.0
    load_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        """Refuses what could never serve anybody."""
        if not self.addresses:
            raise ValueError("addresses: name at least one Triton, as host:port of its gRPC port")
        if not self.models:
            raise ValueError("models: name at least one model")
        for route in self.models:
            if not route.languages:
                raise ValueError(f"models: {route.name} has no languages")
            if route.max_in_flight < 0:
                raise ValueError(f"models: max_in_flight of {route.name} must not be negative")
