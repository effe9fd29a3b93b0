"""One gateway process: puts the parts together, runs until told to stop, then sends its clients elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from server import tracing
from server.audio.vad import VadService, VoiceDetector
from server.auth import Access
from server.config import ConfigError, Settings
from server.gateway import Gateway, watch_loop
from server.inference.observer import MetricsObserver
from server.inference.service import Inference
from server.inference.settings import InferenceSettings, ModelRoute
from server.metrics import Metrics
from server.parts import Parts
from server.protocol.close import CloseCode
from server.registry import Registry
from server.session.messages import Error
from server.upkeep import TOUCHES_PER_WINDOW
from session_store.base import StoreError
from session_store.factory import open_session_store, open_transcript_store

log = structlog.get_logger(__name__)

DRAIN_SHARE = 0.6
"""Part of the drain time that is given to clients; the rest is for stores and sockets."""

RETENTION_INTERVAL_S = 3600.0
STORE_RETRY_S = 1.0


class App:
    """The whole gateway."""

    def __init__(self, settings: Settings, triton_addresses: list[str]) -> None:
        model = settings.cache_dir.expanduser() / "models" / "silero-vad" / "silero_vad.onnx"
        if not model.is_file():
            raise ConfigError(f"the voice activity model is not at {model}: run `make setup`")
        self._settings = settings
        self.metrics = Metrics()
        self._sessions = open_session_store(settings.session_store_url, deadline_s=settings.store_timeout_s)
        self._transcripts = open_transcript_store(settings.transcript_store_url, deadline_s=settings.store_timeout_s)
        self._vad = VadService(VoiceDetector(model))
        self._inference = Inference(
            inference_settings(settings, triton_addresses), observer=MetricsObserver(self.metrics)
        )
        ttl_s = settings.resume_window_s * (1 + 1 / TOUCHES_PER_WINDOW)
        parts = Parts(
            self._vad,
            self._inference,
            self._sessions,
            self._transcripts,
            self.metrics,
            ttl_s,
            log_transcripts=settings.log_transcripts,
        )
        self.registry = Registry(parts, settings)
        self.gateway = Gateway(settings, Access(settings, self._sessions), self.registry, self._inference, self.metrics)
        self._upkeep: list[asyncio.Task[None]] = []
        self._is_healthy: bool | None = None

    async def run(self, stop: asyncio.Event, on_ready: Callable[[App], None]) -> None:
        """Serves until `stop` is set, then drains.

        `on_ready` is called once a real inference has gone through and the port is open.
        """
        loop = asyncio.get_running_loop()
        tracing.configure(self._settings.otlp_endpoint)
        try:
            await self._await_stores()
            self._inference.on_trouble(self._tell)
            await self._inference.start()
            self.registry.start()
            await self.gateway.start()
            self._upkeep = [
                loop.create_task(watch_loop(self.metrics), name="loop delay"),
                loop.create_task(self._purge(), name="retention"),
                loop.create_task(self.gateway.watch_access(), name="keys and certificate"),
                loop.create_task(self.registry.quota.run(), name="audio of keys"),
            ]
            on_ready(self)
            await stop.wait()
            await self._drain()
        finally:
            await self._close()

    async def _await_stores(self) -> None:
        """Waits for stores that are started beside the gateway; also makes their tables before the first client."""
        for name, store in (("session store", self._sessions), ("transcript store", self._transcripts)):
            while True:
                try:
                    await store.ping()
                    break
                except StoreError as error:
                    log.warning(f"{name} out of reach: trying again", error=str(error))
                    await asyncio.sleep(STORE_RETRY_S)

    async def _drain(self) -> None:
        log.info("draining", sessions=len(self.registry))
        await self.gateway.stop_listening()
        await self.registry.drain(self._settings.drain_s * DRAIN_SHARE)
        try:
            async with asyncio.timeout(self._settings.drain_s * (1 - DRAIN_SHARE)):
                await self.gateway.wait_closed()
        except TimeoutError:
            log.warning("connections cut off at the end of the drain time")

    async def _close(self) -> None:
        for task in self._upkeep:
            task.cancel()
        await asyncio.gather(*self._upkeep, return_exceptions=True)
        await self.registry.close()
        await self.registry.quota.report()
        await self._inference.close()
        await self._vad.close()
        await self._sessions.close()
        await self._transcripts.close()
        await asyncio.to_thread(tracing.shutdown)

    def _tell(self, healthy: bool) -> None:
        """News of the speech models, for every client."""
        before, self._is_healthy = self._is_healthy, healthy
        self.metrics.healthy.set(int(healthy))
        if healthy:
            if before is False:
                log.info("speech models answer again")
        else:
            log.warning("speech models do not answer")
            text = "the speech models do not answer: keep sending, your finals come when they are back"
            self.registry.tell_all(Error(CloseCode.INTERNAL, text, recoverable=True, retry_after_ms=2000))

    async def _purge(self) -> None:
        """Deletes transcripts that are older than they may be, once an hour."""
        days = self._settings.retention_days
        while days is not None:
            try:
                deleted = await self._transcripts.purge(older_than_s=days * 86400, spare=self.registry.alive)
                if deleted:
                    log.info("old transcripts deleted", sessions=deleted)
            except Exception:
                log.exception("deleting old transcripts failed")
            await asyncio.sleep(RETENTION_INTERVAL_S)


def inference_settings(settings: Settings, addresses: list[str]) -> InferenceSettings:
    """What of the settings concerns inference."""
    return InferenceSettings(
        addresses=tuple(addresses),
        models=tuple(
            ModelRoute(name, frozenset(codes), settings.max_in_flight) for name, codes in settings.models.items()
        ),
        punctuation_languages=frozenset(settings.punctuation_languages),
        partial_timeout_s=settings.partial_timeout_s,
        final_timeout_s=settings.final_timeout_s,
        final_deadline_s=settings.final_deadline_s,
        punctuation_timeout_s=settings.punctuation_timeout_s,
    )
