"""The microphone without one: the module that speaks to the hardware is replaced, the rest is real."""

from __future__ import annotations

import builtins
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest

from starling_client import MicrophoneError
from starling_client.microphone import QUEUE_FRAMES, load_sounddevice, microphone

Callback = Callable[[bytes, int, Any, Any], None]


class FakeStream:
    """An input device that delivers `frames` from a thread of its own, as PortAudio does."""

    frames: list[bytes]
    opened: list[FakeStream]

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.closed = False
        self.opened.append(self)

    def start(self) -> None:
        callback: Callback = self.options["callback"]
        self.thread = threading.Thread(target=self.deliver, args=(callback,))
        self.thread.start()

    def deliver(self, callback: Callback) -> None:
        for frame in self.frames:
            callback(frame, len(frame) // 2, None, None)

    def stop(self) -> None:
        self.thread.join()

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> type[FakeStream]:
    class Device(FakeStream):
        pass

    Device.frames = [bytes([number, 0]) for number in range(5)]
    Device.opened = []

    module = types.ModuleType("sounddevice")
    module.RawInputStream = Device  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return Device


async def test_frames_come_in_order_and_the_device_is_closed(device: type[FakeStream]) -> None:
    frames = microphone(16000, frame_ms=20, device="USB")
    assert [await anext(frames) for _ in range(5)] == device.frames
    await frames.aclose()  # type: ignore[attr-defined]
    (stream,) = device.opened
    assert stream.closed
    options = stream.options
    assert (options["samplerate"], options["blocksize"], options["channels"]) == (16000, 320, 1)
    assert (options["dtype"], options["device"]) == ("int16", "USB")


async def test_a_reader_that_falls_behind_is_told_that_audio_is_lost(device: type[FakeStream]) -> None:
    frames = microphone()
    assert await anext(frames) == device.frames[0]
    stream = device.opened[0]
    stream.thread.join()
    for _ in range(QUEUE_FRAMES + 5):
        stream.options["callback"](b"\0\0", 1, None, None)
    with pytest.raises(MicrophoneError, match="lost"):
        async for _ in frames:
            pass
    assert stream.closed


async def test_a_device_that_cannot_be_opened_says_what_to_look_at(
    device: type[FakeStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: FakeStream) -> None:
        raise RuntimeError("no such device")

    monkeypatch.setattr(device, "start", refuse)
    with pytest.raises(MicrophoneError, match=r"no such device.*python -m sounddevice"):
        await anext(microphone())


@pytest.mark.parametrize(("error", "text"), [(ImportError("x"), "sounddevice package"), (OSError("x"), "PortAudio")])
def test_what_is_missing_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "sounddevice":
            raise error
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(MicrophoneError, match=f"{text}.*pip install sounddevice"):
        load_sounddevice()
