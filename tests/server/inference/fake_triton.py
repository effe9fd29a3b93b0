"""A Triton with a script: speaks the real gRPC service and answers, waits, hangs, fails or vanishes as it is told."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

DEAD_STUB = "Stub process 'asr_0_0' is not healthy."


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came."""

    model: str
    samples: int
    language: str
    draft: tuple[int, ...] | None
    text: str
    context: str


@dataclass(slots=True)
class Model:
    """How one model behaves; `trouble` is asked first for every request and may raise `AbortError`."""

    state: str = "READY"
    is_stub_dead: bool = False
    config: ModelConfig = field(default_factory=ModelConfig)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    trouble: Callable[[Asked], None] | None = None


class AbortError(Exception):
    """Has the request fail with this status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


class FakeTriton(GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Serves on a free port of loopback from `start` to `stop`; may be started again on the same port."""

    def __init__(self, *models: str) -> None:
        self.models = {name: Model() for name in models}
        for model in self.models.values():
            model.gate.set()
        self.port = 0
        self.asked: list[Asked] = []
        self.cancelled = 0
        self.calls: Counter[str] = Counter()
        self.in_flight: Counter[str] = Counter()
        self.most_in_flight: Counter[str] = Counter()
        self.executions: Counter[str] = Counter()
        self.heals = True
        self.responds = asyncio.Event()
        self.responds.set()
        self.responds_to_loads = asyncio.Event()
        self.responds_to_loads.set()
        self._changed = asyncio.Condition()
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.responds.set()
        for model in self.models.values():
            model.gate.set()
        await self.stop()

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)])
        add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        """Cuts off every call, as a process that is killed would."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Waits until a request or its end has made `condition` true."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(condition)

    async def _note(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # --- the service

    async def ServerLive(self, request: Any, context: Any) -> Any:
        await self._enter("ServerLive")
        return pb.ServerLiveResponse(live=True)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        await self._enter("RepositoryIndex")
        entry = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[entry(name=name, version="1", state=model.state) for name, model in self.models.items()]
        )

    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        await self._enter("ModelStatistics")
        statistics = pb.ModelStatistics(name=request.name, execution_count=self.executions[request.name])
        return pb.ModelStatisticsResponse(model_stats=[statistics])

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        await self._enter("ModelConfig")
        return pb.ModelConfigResponse(config=self.models[request.name].config)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        await self._enter("RepositoryModelLoad")
        await self.responds_to_loads.wait()
        model = self.models[request.model_name]
        if model.state != "READY":
            model.state = "READY"
            model.is_stub_dead = model.is_stub_dead and not self.heals
        await self._note()
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        await self._enter("RepositoryModelUnload")
        self.models[request.model_name].state = "UNAVAILABLE"
        await self._note()
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        asked = asked_of(request)
        name = asked.model
        self.asked.append(asked)
        self.in_flight[name] += 1
        self.most_in_flight[name] = max(self.most_in_flight[name], self.in_flight[name])
        try:
            await self._enter("ModelInfer")
            return await self._infer(asked)
        except AbortError as abort:
            await context.abort(abort.code, abort.details)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight[name] -= 1
            with suppress(RuntimeError):
                asyncio.get_running_loop().create_task(self._note())

    async def _infer(self, asked: Asked) -> Any:
        model = self.models.get(asked.model)
        if model is None or model.state != "READY":
            raise AbortError(grpc.StatusCode.UNAVAILABLE, f"Request for unknown model: '{asked.model}' is not found")
        if model.is_stub_dead:
            raise AbortError(grpc.StatusCode.INTERNAL, DEAD_STUB)
        if model.trouble is not None:
            model.trouble(asked)
        await model.gate.wait()
        if model.is_stub_dead:
            raise AbortError(grpc.StatusCode.INTERNAL, DEAD_STUB)
        self.executions[asked.model] += 1
        return answer_to(asked)

    async def _enter(self, call: str) -> None:
        self.calls[call] += 1
        await self._note()
        await self.responds.wait()


def asked_of(request: Any) -> Asked:
    """The request, read as Triton would."""
    raw = dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True))
    shapes = {tensor.name: tuple(tensor.shape) for tensor in request.inputs}
    assert all(len(shape) == 2 and shape[0] == 1 for shape in shapes.values())
    draft = tuple(np.frombuffer(raw["DRAFT"], np.int32).tolist()) if "DRAFT" in raw else None
    samples = len(raw.get("AUDIO", b"")) // 2
    assert shapes.get("AUDIO", (1, 0)) == (1, samples)
    return Asked(request.model_name, samples, _text(raw, "LANGUAGE"), draft, _text(raw, "TEXT"), _text(raw, "CONTEXT"))


def answer_to(asked: Asked) -> Any:
    """Echoes the length and the language of the window, or the text in capitals."""
    answer = pb.ModelInferResponse(model_name=asked.model)
    if asked.samples:
        _add(answer, "TEXT", "BYTES", _bytes(f"{asked.samples} samples"))
        _add(answer, "TOKENS", "INT32", np.array([asked.samples, 7], np.int32).tobytes())
        _add(answer, "CONFIDENCE", "FP32", struct.pack("<f", 0.5))
        _add(answer, "LANGUAGE", "BYTES", _bytes(asked.language))
    else:
        _add(answer, "TEXT", "BYTES", _bytes(asked.text.capitalize() + "."))
    return answer


def _add(answer: Any, name: str, datatype: str, raw: bytes) -> None:
    answer.outputs.add(name=name, datatype=datatype, shape=[1, 1])
    answer.raw_output_contents.append(raw)


def _bytes(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()


def _text(raw: dict[str, bytes], name: str) -> str:
    return raw[name][4:].decode() if name in raw else ""
