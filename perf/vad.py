"""Cost of voice activity: Starling's batched graph beside the packaged one, and the service at many live streams.

Everything is measured in one run on one thread, taking turns, so that the ratios hold whatever else the machine does.

    python -m perf.vad [--streams 250] [--seconds 5] [--json vad.json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import soundfile
import uvloop
from numpy.typing import NDArray

from server.audio.silero import CONTEXT, HIDDEN, WINDOW
from server.audio.vad import VadService, VadState, VoiceDetector

MODEL = Path.home() / ".cache/starling/models/silero-vad/silero_vad.onnx"
CLIP = Path(__file__).parent.parent / "tests/data/audio/jfk.wav"
BATCHES = (1, 8, 32, 128)
GROUPS = (1, 2, 4)
WINDOW_S = WINDOW / 16000


def main() -> None:
    """Measures and prints."""
    arguments = _arguments()
    samples, rate = soundfile.read(arguments.audio, dtype="int16")
    if rate != 16000 or samples.ndim != 1:
        raise SystemExit(f"{arguments.audio}: one channel at 16 kHz is needed, got {rate} Hz of shape {samples.shape}")
    windows = samples[: samples.size // WINDOW * WINDOW].reshape(-1, WINDOW)
    detector, packaged = VoiceDetector(arguments.model), _Packaged(arguments.model)
    report = {
        "max_difference": _difference(detector, packaged, windows),
        "batches": [_compare(detector, packaged, windows, batch) for batch in BATCHES],
        "service": [
            uvloop.run(_serve(detector, windows, streams=arguments.streams, seconds=arguments.seconds, group=group))
            for group in GROUPS
        ],
    }
    _print(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


class _Packaged:
    """The graph as it comes in the silero-vad package, one step of any number of streams at a time."""

    def __init__(self, model: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._rate = np.array(16000)

    def step(self, windows: NDArray[np.float32], state: NDArray[np.float32]) -> Any:
        """Probabilities [B, 1] and the next state, of windows [B, 576] and state [2, B, 128]."""
        return self._session.run(None, {"input": windows, "state": state, "sr": self._rate})


def _difference(detector: VoiceDetector, packaged: _Packaged, windows: NDArray[np.int16]) -> float:
    ((speech, _),) = detector.detect([(VadState.initial(), windows.ravel())])
    heard = np.concatenate([np.zeros(CONTEXT, np.int16), windows.ravel()]).astype(np.float32) / np.float32(32768)
    state = np.zeros((2, 1, HIDDEN), np.float32)
    largest = 0.0
    for index, probability in enumerate(speech):
        expected, state = packaged.step(heard[None, index * WINDOW :][:, : CONTEXT + WINDOW], state)
        largest = max(largest, abs(float(expected[0, 0]) - float(probability)))
    return largest


def _compare(detector: VoiceDetector, packaged: _Packaged, windows: NDArray[np.int16], batch: int) -> dict[str, float]:
    chosen = windows[np.arange(batch) % len(windows)]
    jobs = [(VadState.initial(), row) for row in chosen]
    floats = np.zeros((batch, CONTEXT + WINDOW), np.float32)
    floats[:, CONTEXT:] = chosen / np.float32(32768)
    state = np.zeros((2, batch, HIDDEN), np.float32)
    ours, theirs = _best_of([lambda: detector.detect(jobs), lambda: packaged.step(floats, state)])
    return {"batch": batch, "starling_us": ours / batch * 1e6, "packaged_us": theirs / batch * 1e6}


def _best_of(functions: list[Callable[[], object]], seconds: float = 1.0) -> list[float]:
    """The least CPU time of each, taken in turns: what the machine's other work adds is not the function's."""
    best = [float("inf")] * len(functions)
    deadline = time.perf_counter() + seconds * len(functions)
    while time.perf_counter() < deadline:
        for index, function in enumerate(functions):
            began = time.thread_time()
            function()
            best[index] = min(best[index], time.thread_time() - began)
    return best


async def _serve(
    detector: VoiceDetector, windows: NDArray[np.int16], *, streams: int, seconds: float, group: int
) -> dict[str, float]:
    """Paced streams through the service, each sending `group` windows at a time.

    CPU time is that of the whole process, event loop included, less that of the same pacing with nothing sent.
    """
    pieces = windows[: len(windows) // group * group].reshape(-1, group * WINDOW)
    service = VadService(detector)
    waits: list[float] = []

    async def stream(number: int, start: float, sends: bool) -> None:
        state = VadState.initial()
        due = start + number / streams * group * WINDOW_S
        for index in range(round(seconds / WINDOW_S / group)):
            await asyncio.sleep(max(0, due + index * group * WINDOW_S - time.perf_counter()))
            if sends:
                began = time.perf_counter()
                _, state = await service.detect(state, pieces[(number + index) % len(pieces)])
                waits.append(time.perf_counter() - began)

    async def cores(sends: bool) -> float:
        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.gather(*(stream(number, wall + 0.1, sends) for number in range(streams)))
        return (time.process_time() - cpu) / (time.perf_counter() - wall)

    net = await cores(True) - await cores(False)
    await service.close()
    p50, p99 = np.percentile(waits, [50, 99]) * 1e3
    return {
        "streams": streams,
        "group": group,
        "cores": net,
        "us_per_window": net / streams * WINDOW_S * 1e6,
        "wait_p50_ms": float(p50),
        "wait_p99_ms": float(p99),
    }


def _print(report: dict[str, Any]) -> None:
    print(f"largest difference of a probability: {report['max_difference']:.1e}\n")
    print("batch   packaged    starling   ratio   (us of CPU a window, one thread)")
    for row in report["batches"]:
        ratio = row["packaged_us"] / row["starling_us"]
        print(f"{row['batch']:5d} {row['packaged_us']:10.1f} {row['starling_us']:11.1f} {ratio:6.1f} x")
    print(f"\n{report['service'][0]['streams']} live streams through the service, all in, pacing taken off")
    print("windows a job   cores   us a window   wait p50   p99 ms")
    for row in report["service"]:
        print(
            f"{row['group']:13d} {row['cores']:7.2f} {row['us_per_window']:13.1f} "
            f"{row['wait_p50_ms']:10.1f} {row['wait_p99_ms']:8.1f}"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="silero_vad.onnx as packaged")
    parser.add_argument("--audio", type=Path, default=CLIP, help="speech, one channel at 16 kHz")
    parser.add_argument("--streams", type=int, default=250, help="live streams through the service")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long these run")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
