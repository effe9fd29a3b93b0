"""Opening graphs on the device that was asked for."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

Providers = list[str | tuple[str, dict[str, str]]]


def providers_for(device: str, device_id: int) -> Providers:
    """What runs graphs on `device` (``cpu`` or ``cuda``).

    Raises:
        ValueError: an unknown device, or one that this ONNX Runtime does not have.
    """
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if device != "cuda":
        raise ValueError(f"device {device!r} is unknown: use cpu or cuda")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise ValueError("device cuda was asked for, but this onnxruntime has no CUDA: install onnxruntime-gpu")
    return [("CUDAExecutionProvider", {"device_id": str(device_id)}), "CPUExecutionProvider"]


def open_session(path: Path, providers: Providers) -> ort.InferenceSession:
    """A session of one thread: batches are spread over threads by whoever runs them."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return ort.InferenceSession(str(existing(path)), options, providers=providers)


def existing(path: Path) -> Path:
    """The path of a file that set-up makes.

    Raises:
        FileNotFoundError: it is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `make setup`")
    return path
