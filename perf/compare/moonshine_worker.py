"""moonshine-voice's own streaming, fed from a pipe: PCM in on stdin, events as JSON lines out on stdout.

Runs in an environment of its own and so imports nothing of this project. `lean` leaves out the copy of all audio that
the library hands back with each update, and the naming of speakers: both cost and serve nothing here. `defaults` keeps
them.

    python moonshine_worker.py INTERVAL_S lean|defaults
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

RATE = 16000
READ_BYTES = 1 << 16


def main() -> None:
    """Reads until the pipe ends."""
    import numpy as np
    from moonshine_voice import ModelArch, Transcriber, get_model_path  # type: ignore[import-not-found]

    lean = {"return_audio_data": "false", "identify_speakers": "false"}
    options = lean if sys.argv[2] == "lean" else {}
    model = str(Path(get_model_path("tiny-en")))
    transcriber = Transcriber(model, ModelArch.TINY, update_interval=float(sys.argv[1]), options=options)
    stream = transcriber.create_stream()
    fed = 0
    numbers: dict[int, int] = {}

    def on_event(event: Any) -> None:
        line = event.line
        kind = {"LineTextChanged": "partial", "LineCompleted": "final"}.get(type(event).__name__)
        if kind is None or (kind == "partial" and line.is_complete):
            return
        told = {
            "type": kind,
            "text": line.text,
            "seq": numbers.setdefault(line.line_id, len(numbers)),
            "start": float(line.start_time),
            "end": fed / RATE if kind == "partial" else float(line.start_time + line.duration),
        }
        print(json.dumps(told), flush=True)

    stream.add_listener(on_event)
    stream.start()
    print(json.dumps({"type": "ready"}), flush=True)
    rest = b""
    # Whatever has come in while the last update was computed goes in at once: the library decides when to decode.
    while data := os.read(0, READ_BYTES):
        data = rest + data
        rest = data[len(data) // 2 * 2 :]
        samples = np.frombuffer(data[: len(data) // 2 * 2], np.int16)
        fed += len(samples)
        stream.add_audio((samples / np.float32(32768)).tolist(), RATE)
    stream.stop()
    stream.close()
    transcriber.close()


if __name__ == "__main__":
    main()
