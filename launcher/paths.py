"""Where things lie on one machine: the cache that checkouts share, the state of one copy, the source tree."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCE_ROOT = Path(__file__).resolve().parent.parent
"""The checkout: `triton_models/` and `requirements/` lie here."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders of one copy of Starling.

    Attributes:
        cache: downloads and what is made from them; safe to share between copies and to delete while none runs.
        state: SQLite files, logs, the assembled model repository; belongs to one running copy.
        source: the checkout.
    """

    cache: Path
    state: Path
    source: Path = SOURCE_ROOT

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Paths:
        """Reads `STARLING_CACHE_DIR` and `STARLING_STATE_DIR`; the defaults are ~/.cache/starling and ./.starling."""
        env = os.environ if environment is None else environment
        cache = env.get("STARLING_CACHE_DIR") or "~/.cache/starling"
        state = env.get("STARLING_STATE_DIR") or ".starling"
        return cls(Path(cache).expanduser().absolute(), Path(state).expanduser().absolute())

    @property
    def models(self) -> Path:
        """One folder a model, as the engines read it."""
        return self.cache / "models"

    @property
    def originals(self) -> Path:
        """Weights as they were published, kept so that a new converter needs no network."""
        return self.cache / "originals"

    @property
    def downloads(self) -> Path:
        """Where wheels lie while they are being read; empty when no set-up is running."""
        return self.cache / "downloads"

    @property
    def triton_environments(self) -> Path:
        """Triton's Python environments, one for each lock and interpreter."""
        return self.cache / "triton"

    @property
    def tools(self) -> Path:
        """Programs that only some commands need, such as perf_analyzer."""
        return self.cache / "tools"

    @property
    def setup_lock(self) -> Path:
        """Held by a set-up that is writing into the cache."""
        return self.cache / "setup.lock"

    @property
    def repository(self) -> Path:
        """The model repository that Triton is started on."""
        return self.state / "repository"

    @property
    def triton_log(self) -> Path:
        """What Triton and its models print."""
        return self.state / "logs" / "triton.log"
