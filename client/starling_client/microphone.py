"""Microphone input, an extra: it needs the `sounddevice` package, and that the PortAudio library."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from typing import Any

from starling_client.errors import MicrophoneError

QUEUE_FRAMES = 500

INSTALL = "pip install sounddevice, and on Debian: apt-get install libportaudio2"


def load_sounddevice() -> Any:
    """Return the `sounddevice` module. Raises MicrophoneError that says what to install."""
    try:
        return importlib.import_module("sounddevice")
    except ImportError:
        raise MicrophoneError(f"the microphone needs the sounddevice package: {INSTALL}") from None
    except OSError as error:
        raise MicrophoneError(f"the PortAudio library is missing ({error}): {INSTALL}") from None


async def microphone(
    sample_rate: int = 16000, *, frame_ms: int = 20, device: int | str | None = None
) -> AsyncIterator[bytes]:
    """Yield mono `pcm_s16le` frames of `frame_ms` from an input device until the iteration is given up.

    `device` is a number or a part of a name as in `python -m sounddevice`, None the system's default. Raises
    MicrophoneError where there is no usable device, or when the reader falls 10 s behind.
    """
    sounddevice = load_sounddevice()
    loop = asyncio.get_running_loop()
    frames: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_FRAMES)

    def take(frame: bytes) -> None:
        if frames.full():
            frames.get_nowait()
            frames.put_nowait(None)
        else:
            frames.put_nowait(frame)

    def on_audio(data: Any, count: int, time: Any, status: Any) -> None:
        loop.call_soon_threadsafe(take, bytes(data))

    try:
        stream = sounddevice.RawInputStream(
            samplerate=sample_rate,
            blocksize=sample_rate * frame_ms // 1000,
            device=device,
            channels=1,
            dtype="int16",
            callback=on_audio,
        )
        stream.start()
    except Exception as error:  # PortAudioError exists only where the module does.
        raise MicrophoneError(
            f"the microphone cannot be opened: {error}; `python -m sounddevice` lists devices"
        ) from None
    try:
        while True:
            frame = await frames.get()
            if frame is None:
                raise MicrophoneError("the microphone's audio was not taken in time and some of it is lost")
            yield frame
    finally:
        stream.stop()
        stream.close()
