"""One Triton over gRPC.

The messages and the stub are tritonclient's; its own client class is left out, as it builds an object for every
tensor and hides the gRPC status that tells a refusal from a fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from server import tracing
from server.inference.errors import Fault, InferenceError, from_rpc

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A peer that vanished without a word is noticed by `is_live`; these let the connection be given up too.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own pauses grow to two minutes: a Triton that is back would not be noticed.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Channels to one address would share a connection otherwise, and with it its faults.
    ("grpc.use_local_subchannel_pool", 1),
]


class ModelState(StrEnum):
    """What Triton's repository says of a model. READY says nothing about its process being alive."""

    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """How a Triton serves a model.

    Attributes:
        instances: batches that it computes at once.
        hands: threads that each of them deals its batch out to.
        max_batch: requests in a batch.
        on_gpu: whether batches are computed as one, and so pay.
    """

    instances: int = 1
    hands: int = 1
    max_batch: int = 1
    on_gpu: bool = False

    @property
    def in_flight(self) -> int:
        """Windows to have there at once.

        A GPU gets a whole batch while it computes another. On CPUs every thread gets a window, and every second one
        another to go on with: what is sent can no longer be ranked, and a larger batch saves little there.
        """
        if self.on_gpu:
            return 2 * self.instances * self.max_batch
        return ceil(1.5 * self.instances * self.hands)


class TritonClient:
    """The calls that are made to one Triton. Every one has a deadline and raises `InferenceError`.

    A call whose task is cancelled is cancelled at Triton too.
    """

    def __init__(self, address: str) -> None:
        """`address` is `host:port` of the gRPC port. Must be called within a running event loop."""
        self.address = address
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._stub = GRPCInferenceServiceStub(self._channel)

    async def infer(self, request: pb.ModelInferRequest, timeout_s: float) -> pb.ModelInferResponse:
        """One inference."""
        with tracing.call(request.model_name, self.address) as metadata:
            return await _answer(self._stub.ModelInfer, request, timeout_s, metadata)

    async def is_live(self, timeout_s: float) -> bool:
        """Whether the server answers at all; it does not wait behind inferences."""
        return bool((await _answer(self._stub.ServerLive, pb.ServerLiveRequest(), timeout_s)).live)

    async def model_state(self, model: str, timeout_s: float) -> ModelState:
        """What the repository says of a model; UNAVAILABLE if it does not know it."""
        index = await _answer(self._stub.RepositoryIndex, pb.RepositoryIndexRequest(), timeout_s)
        states = [entry.state for entry in index.models if entry.name == model]
        return ModelState(states[-1]) if states and states[-1] in set(ModelState) else ModelState.UNAVAILABLE

    async def shape(self, model: str, timeout_s: float) -> ModelShape:
        """How it is served."""
        request = pb.ModelConfigRequest(name=model)
        config = (await _answer(self._stub.ModelConfig, request, timeout_s)).config
        groups = config.instance_group
        count = sum(group.count * max(1, len(group.gpus)) for group in groups)
        threads = config.parameters["THREADS"].string_value if "THREADS" in config.parameters else ""
        return ModelShape(
            instances=max(1, count),
            hands=int(threads) if threads.isdecimal() and int(threads) else 1,
            max_batch=max(1, config.max_batch_size),
            on_gpu=any(group.kind == ModelInstanceGroup.KIND_GPU for group in groups),
        )

    async def progress(self, model: str, timeout_s: float) -> int:
        """A number that grows with every batch and every failure: it stands still where a model is idle or hangs."""
        request = pb.ModelStatisticsRequest(name=model)
        statistics = (await _answer(self._stub.ModelStatistics, request, timeout_s)).model_stats
        return sum(entry.execution_count + entry.inference_stats.fail.count for entry in statistics)

    async def load(self, model: str, timeout_s: float) -> None:
        """Loads a model and returns when it is ready; does nothing to one that is."""
        await _answer(self._stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name=model), timeout_s)

    async def unload(self, model: str, timeout_s: float) -> None:
        """Begins to unload a model; requests that are under way are finished first."""
        await _answer(self._stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name=model), timeout_s)

    async def close(self) -> None:
        """Ends the connection; calls under way fail."""
        await self._channel.close()


async def _answer(
    method: Callable[..., Awaitable[Any]], request: Any, timeout_s: float, metadata: tracing.Metadata | None = None
) -> Any:
    try:
        return await method(request, timeout=timeout_s, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Not our task but the call was cancelled: the channel has been closed.
        raise InferenceError(Fault.GONE, "the connection was closed") from None
    except grpc.aio.UsageError as error:
        raise InferenceError(Fault.GONE, str(error)) from None
