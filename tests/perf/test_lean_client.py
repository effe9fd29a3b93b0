import json

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from perf.lean_client import BINARY, TEXT, RefusedError, client_frame, open_socket, split_frames, text_frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 640, 65535, 65536, 100_000])
def test_a_server_understands_the_frames(size: int) -> None:
    payload = bytes(index % 251 for index in range(size))
    server = ServerProtocol(state=OPEN, max_size=None)
    server.receive_data(client_frame(BINARY, payload))
    [frame] = server.events_received()
    assert isinstance(frame, Frame)
    assert (frame.opcode, bytes(frame.data)) == (Opcode.BINARY, payload)


@pytest.mark.parametrize("size", [0, 125, 126, 65536])
def test_whole_frames_come_off_the_front(size: int) -> None:
    text = b"x" * size
    data = Frame(Opcode.TEXT, text).serialize(mask=False) + Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=False)
    buffer = bytearray()
    frames = []
    for at in range(0, len(data), 50):
        buffer += data[at : at + 50]
        frames += split_frames(buffer)
    assert frames == [(TEXT, text), (8, b"\x03\xe8")]
    assert not buffer


def test_a_masked_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="masked"):
        split_frames(bytearray(client_frame(TEXT, b"hello")))


async def test_speaks_with_a_real_server() -> None:
    heard: list[str | bytes] = []

    async def handler(socket: ServerConnection) -> None:
        heard.extend([await socket.recv(), await socket.recv()])
        await socket.ping()
        await socket.send('{"type":"done"}')
        await socket.close(1000)

    async with serve(handler, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        socket = await open_socket(f"ws://127.0.0.1:{port}/stream")
        socket.write(text_frame({"type": "start"}))
        socket.write(client_frame(BINARY, b"\1\2"))
        await socket.closed
    assert [json.loads(heard[0]), heard[1]] == [{"type": "start"}, b"\1\2"]
    assert [raw for _, raw in socket.received] == [b'{"type":"done"}']
    assert socket.close_code == 1000


async def test_a_refusal_has_its_status() -> None:
    async def handler(socket: ServerConnection) -> None:
        raise AssertionError

    async with serve(handler, "127.0.0.1", 0, process_request=lambda c, r: c.respond(503, "full\n")) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with pytest.raises(RefusedError, match="full") as refusal:
            await open_socket(f"ws://127.0.0.1:{port}/stream")
    assert refusal.value.status == 503
