"""Debian's Chromium without a screen, driven over the Chrome DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
START_TIMEOUT_S = 60.0
DEADLINE_S = 60.0
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --no-default-browser-check "
    "--disable-background-networking --disable-component-update --disable-sync --disable-extensions "
    "--disable-default-apps --metrics-recording-only --disable-dev-shm-usage --mute-audio --remote-debugging-port=0 "
    "--use-fake-device-for-media-stream --autoplay-policy=no-user-gesture-required --window-size=1200,800"
).split()
KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "Space": (32, " "), "Escape": (27, ""), "ArrowDown": (40, "")}
Event = dict[str, Any]

WHEN = """
new Promise((resolve) => {
  const watch = new MutationObserver(() => check());
  const check = () => { if (%s) { watch.disconnect(); resolve(true); return true; } return false; };
  if (!check()) watch.observe(document, {subtree: true, childList: true, characterData: true, attributes: true});
})
"""
"""Resolves at the first change of the page after which a condition holds."""


class Page:
    """One tab, and everything that happened in it."""

    def __init__(self, socket: ClientConnection, browser_log: Path) -> None:
        self.events: list[Event] = []
        self._socket = socket
        self._log = browser_log
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Event]] = {}
        self._arrived = asyncio.Condition()

    async def listen(self) -> None:
        """Takes what the browser says, until it is gone."""
        async for frame in self._socket:
            message = json.loads(frame)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            else:
                async with self._arrived:
                    self.events.append(message)
                    self._arrived.notify_all()

    async def call(self, method: str, **parameters: Any) -> Event:
        """One command of the protocol; its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        async with asyncio.timeout(DEADLINE_S):
            message = await answer
        if "error" in message:
            raise AssertionError(f"{method}: {message['error']}")
        result: Event = message["result"]
        return result

    async def evaluate(self, script: str) -> Any:
        """The value of an expression in the page, promises awaited."""
        answer = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}\n{answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Waits until a JavaScript condition on the document holds."""
        try:
            await self.evaluate(WHEN % condition)
        except TimeoutError:
            body = await self.evaluate("document.body.innerText")
            raise AssertionError(f"never became true: {condition}\n{body}\n{self.complaints}") from None

    async def until_event(self, matches: Callable[[Event], bool]) -> Event:
        """The first event, past or to come, that matches."""
        async with asyncio.timeout(DEADLINE_S), self._arrived:
            while True:
                for event in self.events:
                    if matches(event):
                        return event
                await self._arrived.wait()

    async def until_count(self, method: str, parameters: dict[str, object], count: int) -> None:
        """Waits until `count` events of a kind with these parameters have come."""
        async with asyncio.timeout(DEADLINE_S), self._arrived:
            while True:
                found = [e["params"] for e in self.events if e["method"] == method]
                if sum(parameters.items() <= given.items() for given in found) >= count:
                    return
                await self._arrived.wait()

    async def open(self, url: str) -> None:
        """Goes to an address and waits until its scripts have run."""
        for domain in ("Page", "Runtime", "Log", "Network", "DOM", "Accessibility"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        await self.until_event(lambda event: event["method"] == "Page.loadEventFired")

    async def text(self, selector: str) -> str:
        """The text of the first element that matches."""
        return str(await self.evaluate(f"document.querySelector({json.dumps(selector)}).textContent.trim()"))

    async def click(self, selector: str) -> None:
        """Presses the mouse in the middle of an element."""
        x, y = await self.evaluate(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def press(self, key: str) -> None:
        """Presses and releases a key."""
        code, text = KEYS[key]
        name = " " if key == "Space" else key
        common = {"key": name, "code": key, "windowsVirtualKeyCode": code}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def drop(self, file: Path) -> None:
        """Drags a file from outside onto the middle of the page."""
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            await self.call("Input.dispatchDragEvent", type=kind, x=400, y=300, data=data)

    async def screenshot(self, file: Path) -> None:
        """Writes what is to be seen as a PNG."""
        picture = await self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(picture["data"]))

    async def accessible(self) -> list[tuple[str, str]]:
        """Role and name of everything that assistive technology is told of."""
        tree = await self.call("Accessibility.getFullAXTree")
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in tree["nodes"]
            if not node["ignored"]
        ]

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings on the console, and exceptions that nobody caught."""
        found = []
        for event in self.events:
            match event:
                case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}:
                    found.append(json.dumps(details))
                case {"method": "Runtime.consoleAPICalled", "params": {"type": "error" | "warning" as kind, **rest}}:
                    found.append(f"{kind}: {json.dumps(rest['args'])}")
                case {"method": "Log.entryAdded", "params": {"entry": {"level": "error" | "warning", **rest}}}:
                    found.append(f"{rest['text']} {rest.get('url', '')}")
        return found

    @property
    def requests(self) -> list[str]:
        """Every address that was asked for, WebSockets included."""
        urls = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return urls + [e["params"]["url"] for e in self.events if e["method"] == "Network.webSocketCreated"]

    @property
    def received(self) -> list[dict[str, Any]]:
        """Every message that came over a WebSocket."""
        frames = [e["params"]["response"] for e in self.events if e["method"] == "Network.webSocketFrameReceived"]
        return [json.loads(frame["payloadData"]) for frame in frames if frame["opcode"] == 1]


@asynccontextmanager
async def browsing(microphone: Path | None = None, flags: Sequence[str] = ()) -> AsyncIterator[Page]:
    """A fresh browser with one empty tab. `microphone`: a WAV file that it hears once, with leave given."""
    assert BINARY is not None, "chromium is not installed: apt-get install chromium"
    heard = [f"--use-file-for-fake-audio-capture={microphone}%noloop", "--use-fake-ui-for-media-stream"]
    with tempfile.TemporaryDirectory(prefix="starling-chromium-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        profile = folder / "profile"
        log = folder / "log"
        command = [BINARY, *FLAGS, f"--user-data-dir={profile}", *(heard if microphone else []), *flags, "about:blank"]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            url = await _first_tab(process, profile, log)
            async with connect(url, max_size=None, ping_interval=None, compression=None) as socket:
                page = Page(socket, log)
                listening = asyncio.create_task(page.listen())
                try:
                    yield page
                finally:
                    listening.cancel()
                    await asyncio.gather(listening, return_exceptions=True)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _first_tab(process: subprocess.Popen[bytes], profile: Path, log: Path) -> str:
    """The DevTools address of the tab that the browser begins with."""
    port_file = profile / "DevToolsActivePort"
    async with asyncio.timeout(START_TIMEOUT_S):
        # A file of another program: there is no event to wait for.
        while not (port_file.exists() and len(port_file.read_text().splitlines()) == 2):
            if process.poll() is not None:
                raise AssertionError(f"chromium ended with {process.returncode}:\n{log.read_text(errors='replace')}")
            await asyncio.sleep(0.05)
    port, path = port_file.read_text().splitlines()
    async with connect(f"ws://127.0.0.1:{port}{path}", compression=None) as socket:
        await socket.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
        targets = json.loads(await socket.recv())["result"]["targetInfos"]
    [tab] = [target["targetId"] for target in targets if target["type"] == "page"]
    return f"ws://127.0.0.1:{port}/devtools/page/{tab}"
