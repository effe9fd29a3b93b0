"""The page in a real browser, on the real Triton: microphone, files, a network that breaks, keyboard, screen reader."""

from __future__ import annotations

import json
import re
import threading
import wave
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from launcher.paths import SOURCE_ROOT
from server.keys import add_key
from tests.end_to_end.chromium import BINARY, Page, browsing
from tests.end_to_end.gateway import GatewayProcess, MakeGateway
from tests.end_to_end.proxy import FaultyProxy
from tests.end_to_end.speaker import AUDIO, Clip, clip, recite, speaking

pytestmark = [
    pytest.mark.triton,
    pytest.mark.browser,
    pytest.mark.skipif(BINARY is None, reason="chromium is not installed: apt-get install chromium"),
]

RATE = 16000
SPOKEN = ("librivox_sense_0880", "librivox_sense_0920")
NOWHERE = 1
"""A port on which nothing listens."""

HEAVY = "<img src=x onerror=alert(1)>"

WORDS = "[...document.querySelectorAll('#finals .words')].map((words) => words.textContent)"
STATUS = "document.querySelector('#status').textContent"
ACTIONS = "!document.querySelector('#actions').hidden"


def record(folder: Path, *names: str) -> Path:
    """The recordings one after another, with a second of silence around each, as a microphone would hear them."""
    silence = np.zeros(RATE, np.int16)
    pieces: list[NDArray[np.int16]] = [silence]
    for name in names:
        pieces += [clip(name).samples, silence]
    file = folder / "microphone.wav"
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(np.concatenate(pieces).tobytes())
    return file


def spoken(*names: str) -> Clip:
    """What the recordings say."""
    return Clip("all", np.zeros(0, np.int16), RATE, " ".join(clip(name).transcript for name in names))


@pytest.fixture
def microphone(tmp_path: Path) -> Path:
    return record(tmp_path, *SPOKEN)


@pytest_asyncio.fixture
async def page(microphone: Path) -> AsyncIterator[Page]:
    async with browsing(microphone) as page:
        yield page


@pytest.fixture
def patient(make_gateway: MakeGateway) -> GatewayProcess:
    """A gateway that waits long for whoever was cut off and for the marks of its finals, as the machine may be busy."""
    return make_gateway(resume_window_s=300, punctuation_timeout_s=30)


async def visit(page: Page, port: int) -> None:
    await page.open(f"http://127.0.0.1:{port}/")
    await page.until("document.querySelector('#language').options.length > 50")


def port_of(proxy: FaultyProxy) -> int:
    port = urlsplit(proxy.url).port
    assert port is not None
    return port


def cut(proxy: FaultyProxy) -> None:
    """Breaks what is open and leads nowhere until it is mended."""
    proxy.target = NOWHERE
    proxy.reset_all()


def mend(proxy: FaultyProxy, gateway: GatewayProcess) -> None:
    proxy.target = gateway.port
    proxy.flow()


async def words(page: Page) -> list[str]:
    return list(await page.evaluate(WORDS))


async def finish(page: Page) -> list[str]:
    """Stops the microphone and waits for the last final."""
    await page.click("#start")
    await page.until(f"{STATUS} === 'Finished'")
    return await words(page)


def finals(page: Page) -> list[str]:
    """What the server said, each seq once."""
    return [text for _, text in sorted({m["seq"]: m["text"] for m in page.received if m["type"] == "final"}.items())]


async def test_the_microphone_becomes_text(gateway: GatewayProcess, page: Page) -> None:
    await visit(page, gateway.port)
    await page.click("#start")
    await page.until(f"{STATUS} === 'Listening'")
    await page.until("document.querySelector('#stable').textContent.length > 0")
    assert await page.evaluate("Number(document.querySelector('#meter').getAttribute('aria-valuenow'))") > 0
    await page.until("/\\d+ ms behind|\\d+(\\.\\d+)? s behind/.test(document.querySelector('#lag').textContent)")
    await page.until(f"{WORDS}.length >= 2")
    shown = await finish(page)
    assert shown == finals(page)
    assert spoken(*SPOKEN).word_error_rate(" ".join(shown)) <= 0.3
    assert page.complaints == []
    assert {url.split("/")[2] for url in page.requests} == {f"127.0.0.1:{gateway.port}"}
    partials = [m for m in page.received if m["type"] == "partial"]
    assert len(partials) >= 2


async def test_a_dropped_file_gives_what_any_client_gets(patient: GatewayProcess, page: Page) -> None:
    await visit(page, patient.port)
    await page.drop(AUDIO / "jfk.wav")
    await page.until(f"{STATUS} === 'Finished'")
    shown = await words(page)
    heard = await recite(patient.url, clip("jfk").pcm())
    assert shown == [final["text"] for final in heard.finals]
    assert [m["audio_seconds"] for m in page.received if m["type"] == "done"] == [pytest.approx(11.0, abs=0.01)]
    assert page.complaints == []


async def test_a_chosen_file_of_another_rate(gateway: GatewayProcess, page: Page) -> None:
    await visit(page, gateway.port)
    document = await page.call("DOM.getDocument")
    node = await page.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector="#file")
    await page.call("DOM.setFileInputFiles", files=[str(AUDIO / "two_cities.wav")], nodeId=node["nodeId"])
    await page.until("document.querySelector('#progress').value > 0")
    await page.until(f"{STATUS} === 'Finished'")
    assert clip("two_cities").word_error_rate(" ".join(await words(page))) <= 0.2


async def test_what_is_no_sound_is_refused_in_words(gateway: GatewayProcess, page: Page, tmp_path: Path) -> None:
    file = tmp_path / f"{HEAVY.replace('/', '')}.wav"
    file.write_bytes(b"no sound at all")
    await visit(page, gateway.port)
    await page.drop(file)
    await page.until("!document.querySelector('#notice').hidden")
    assert HEAVY in await page.text("#notice-text")
    assert await page.evaluate("document.querySelectorAll('img').length") == 0
    assert await page.text("#start-label") == "Start microphone"


async def test_a_broken_network_loses_nothing_and_says_nothing_twice(patient: GatewayProcess, page: Page) -> None:
    async with FaultyProxy(patient.port) as proxy:
        await visit(page, port_of(proxy))
        await page.click("#start")
        # In the middle of a word, and again in the next sentence.
        for said in (0, 1):
            await page.until(f"{WORDS}.length >= {said} && document.querySelector('#stable').textContent.length > 0")
            cut(proxy)
            await page.until(f"{STATUS} === 'Reconnecting'")
            await page.until("/^\\d+ s kept$/.test(document.querySelector('#lag').textContent)")
            mend(proxy, patient)
            await page.until(f"{STATUS} === 'Listening'")
        await page.until(f"{WORDS}.length >= 2")
        shown = await finish(page)
    assert shown == finals(page)
    assert len(shown) == 2
    assert spoken(*SPOKEN).word_error_rate(" ".join(shown)) <= 0.3
    resumed = [m["resumed"] for m in page.received if m["type"] == "session"]
    assert resumed == [False, True, True]


async def test_the_text_of_a_file_is_the_same_over_a_broken_network(patient: GatewayProcess, page: Page) -> None:
    whole = await recite(patient.url, clip("jfk").pcm())
    async with FaultyProxy(patient.port) as proxy:
        await visit(page, port_of(proxy))
        await page.evaluate("document.querySelector('#real-time').checked = true")
        await page.drop(AUDIO / "jfk.wav")
        await page.until("document.querySelector('#stable').textContent.length > 10")
        cut(proxy)
        await page.until(f"{STATUS} === 'Reconnecting'")
        mend(proxy, patient)
        await page.until(f"{STATUS} === 'Finished'")
    assert await words(page) == [final["text"] for final in whole.finals]


async def test_a_connection_that_hangs_is_made_again(patient: GatewayProcess, page: Page) -> None:
    samples = clip("librivox_sense_0880").samples
    async with FaultyProxy(patient.port) as proxy:
        await visit(page, port_of(proxy))
        await page.evaluate(f"""(async () => {{
            const {{ StarlingSession }} = await import("/starling.js");
            window.heard = [];
            window.session = new StarlingSession("/stream", {{ deadAfterMs: 1500, attemptTimeoutMs: 1500 }});
            for (const kind of ["state", "final", "error", "done"]) {{
                session.addEventListener(kind, ({{ detail }}) => heard.push([kind, detail]));
            }}
            await session.opened;
            session.send(Int16Array.from({json.dumps(samples[:16000].tolist())}));
        }})()""")
        proxy.stall()
        await page.evaluate(f"""(async () => {{
            session.send(Int16Array.from({json.dumps(samples[16000:].tolist())}));
            const reconnecting = new Promise((resolve) => session.addEventListener("state", resolve, {{ once: true }}));
            window.first = (await reconnecting).detail;
        }})()""")
        mend(proxy, patient)
        done = await page.evaluate("session.end()")
        heard = await page.evaluate("heard")
    assert (await page.evaluate("first"))["state"] == "reconnecting"
    assert done["audio_offset"] == len(samples)
    assert not [detail for kind, detail in heard if kind == "error"]
    texts = [detail["text"] for kind, detail in heard if kind == "final"]
    assert texts == [final["text"] for final in (await recite(patient.url, samples.tobytes())).finals]


async def test_a_new_server_is_found_after_the_old_one_was_killed(make_gateway: MakeGateway, page: Page) -> None:
    first = make_gateway(resume_window_s=300)
    await visit(page, first.port)
    await page.click("#start")
    await page.until("document.querySelector('#stable').textContent.length > 0")
    first.kill()
    await page.until(f"{STATUS} === 'Reconnecting'")
    first.start()
    await page.until(f"{STATUS} === 'Listening'")
    await page.until(f"{WORDS}.length >= 2")
    shown = await finish(page)
    assert shown == finals(page)
    assert spoken(*SPOKEN).word_error_rate(" ".join(shown)) <= 0.3


async def test_copy_and_downloads(gateway: GatewayProcess, page: Page, tmp_path: Path) -> None:
    await visit(page, gateway.port)
    await page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), eventsEnabled=True)
    await page.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    await page.drop(AUDIO / "jfk.wav")
    await page.until(f"{STATUS} === 'Finished' && {ACTIONS}")
    shown = await words(page)
    await page.click("#copy")
    await page.until("document.querySelector('#copy').textContent === 'Copied'")
    assert await page.evaluate("navigator.clipboard.readText()") == "".join(f"{text}\n" for text in shown)
    for count, ending in enumerate(("txt", "srt", "vtt"), start=1):
        await page.click(f"[data-format={ending}]")
        await page.until_count("Browser.downloadProgress", {"state": "completed"}, count)
    assert (tmp_path / "transcript.txt").read_text() == "".join(f"{text}\n" for text in shown)
    srt, vtt = ((tmp_path / f"transcript.{ending}").read_text() for ending in ("srt", "vtt"))
    assert srt.startswith("1\n00:00:0")
    assert " --> 00:00:1" in srt
    assert vtt.startswith("WEBVTT\n\n00:00:0")
    assert " ".join(" ".join(shown).split()[:3]) in vtt
    await page.click("#clear")
    assert await words(page) == []
    assert not await page.evaluate("document.querySelector('#welcome').hidden")


async def test_the_keyboard_is_enough(gateway: GatewayProcess, page: Page) -> None:
    await visit(page, gateway.port)
    focused = "document.activeElement.id || document.activeElement.tagName"
    order = []
    for _ in range(4):
        await page.press("Tab")
        order.append(await page.evaluate(focused))
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", order
    assert order == ["start", "language", "open", "SUMMARY"]
    await page.press("Enter")
    assert await page.evaluate("document.querySelector('#options').open")
    await page.press("Tab")
    await page.press("Space")
    assert await page.evaluate("document.querySelector('#real-time').checked")
    await page.press("Escape")
    assert await page.evaluate(focused) == "SUMMARY"
    await page.evaluate("document.querySelector('#start').focus()")
    await page.press("Enter")
    await page.until(f"{WORDS}.length >= 2")
    assert await page.evaluate(focused) == "start"
    await page.press("Space")
    await page.until(f"{STATUS} === 'Finished'")
    assert len(await words(page)) == 2


async def test_what_assistive_technology_is_told(gateway: GatewayProcess, page: Page) -> None:
    await visit(page, gateway.port)
    tree = await page.accessible()
    for node in (
        ("RootWebArea", "Starling"),
        ("heading", "Starling"),
        ("region", "Transcript"),
        ("region", "Controls"),
        ("button", "Start microphone"),
        ("combobox", "Language spoken"),
        ("button", "Open a file"),
        ("log", "Transcript"),
    ):
        assert node in tree, tree
    unnamed = [
        node for node in tree if node[0] in ("button", "combobox", "checkbox", "textbox", "meter") and not node[1]
    ]
    assert unnamed == []
    await page.drop(AUDIO / "jfk.wav")
    await page.until(f"{STATUS} === 'Finished' && {ACTIONS}")
    tree = await page.accessible()
    assert {("button", "Copy"), ("button", "Download SRT subtitles"), ("button", "Clear")} <= set(tree)
    live = "[...document.querySelectorAll('[aria-live], [role=log], [role=status], [role=alert]')].map((e) => e.id)"
    assert set(await page.evaluate(live)) == {"finals", "partial", "status", "said", "notice"}
    assert await page.evaluate("document.querySelector('#finals').ariaLive") == "polite"
    assert await page.evaluate("document.querySelector('#partial').ariaLive") == "off"
    assert await page.evaluate("document.querySelector('#finals .words').lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_contrast_and_widths(gateway: GatewayProcess, page: Page, scheme: str) -> None:
    await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    await visit(page, gateway.port)
    await page.evaluate("""for (const id of ["actions", "partial", "gauges", "notice"]) {
        document.getElementById(id).hidden = false;
    }""")
    for selector in (
        "#stable",
        "#unstable",
        "#partial-time",
        ".welcome p:last-child",
        "#copy",
        "#notice",
        "#start",
        "#lag",
    ):
        assert await contrast(page, selector) >= 4.5, selector
    for width in (320, 360, 768, 1400):
        await page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=640, deviceScaleFactor=1, mobile=width < 500
        )
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert await page.evaluate("""[...document.querySelectorAll('button, select, summary')].every((e) => {
            const box = e.getBoundingClientRect();
            return e.hidden || box.width === 0 || (box.left >= 0 && box.right <= innerWidth && box.height >= 24);
        })""")


async def contrast(page: Page, selector: str) -> float:
    """WCAG 2's contrast of an element's text with the nearest background behind it."""
    text, behind = await page.evaluate(f"""(() => {{
        const canvas = new OffscreenCanvas(1, 1).getContext("2d", {{ willReadFrequently: true }});
        const rgb = (color) => {{
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = color;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data];
        }};
        let element = document.querySelector({json.dumps(selector)});
        const text = rgb(getComputedStyle(element).color);
        while (rgb(getComputedStyle(element).backgroundColor)[3] < 255) element = element.parentElement;
        return [text, rgb(getComputedStyle(element).backgroundColor)];
    }})()""")
    light, dark = sorted((luminance(text), luminance(behind)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: list[int]) -> float:
    parts = [value / 255 for value in color[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


async def test_a_microphone_that_is_refused(gateway: GatewayProcess) -> None:
    async with browsing(flags=["--deny-permission-prompts"]) as page:
        await visit(page, gateway.port)
        await page.click("#start")
        await page.until("!document.querySelector('#notice').hidden")
        assert "blocked" in await page.text("#notice-text")
        assert await page.text("#start-label") == "Start microphone"
        assert not [url for url in page.requests if url.startswith("ws:")]


async def test_a_page_that_is_not_secure_says_so(gateway: GatewayProcess) -> None:
    flags = ["--host-resolver-rules=MAP starling.test 127.0.0.1"]
    async with browsing(flags=flags) as page:
        await page.open(f"http://starling.test:{gateway.port}/")
        await page.until("document.querySelector('#language').options.length > 50")
        await page.click("#start")
        await page.until("!document.querySelector('#notice').hidden")
        assert "https" in await page.text("#notice-text")


async def test_a_server_with_keys(make_gateway: MakeGateway, page: Page, tmp_path: Path) -> None:
    _, key = add_key(tmp_path / "keys.json", "page")
    gateway = make_gateway(keys_file=str(tmp_path / "keys.json"), resume_window_s=300)
    async with FaultyProxy(gateway.port) as proxy:
        await visit(page, port_of(proxy))
        notice = "document.querySelector('#notice-text').textContent"
        for given, answer in (("", "asks for a key"), (key[:-1], "does not accept this key"), ("schlüssel", "key")):
            await page.evaluate(f"document.querySelector('#key').value = {json.dumps(given)}")
            await page.click("#start")
            await page.until(f"{STATUS} === 'Stopped' && {notice}.includes({json.dumps(answer)})")
        await page.evaluate(f"document.querySelector('#key').value = {json.dumps(key)}")
        await page.drop(AUDIO / "librivox_sense_0880.wav")
        await page.until(f"{STATUS} === 'Finished'")
        await page.evaluate("document.querySelector('#real-time').checked = true")
        await page.drop(AUDIO / "librivox_sense_0920.wav")
        await page.until("document.querySelector('#stable').textContent.length > 0")
        cut(proxy)
        await page.until(f"{STATUS} === 'Reconnecting'")
        mend(proxy, gateway)
        await page.until(f"{STATUS} === 'Finished' && {WORDS}.length === 2")
        assert spoken(*SPOKEN).word_error_rate(" ".join(await words(page))) <= 0.3
        assert not [url for url in page.requests if key in url]


async def test_a_page_at_a_name_that_the_server_does_not_know(gateway: GatewayProcess) -> None:
    flags = ["--host-resolver-rules=MAP starling.test 127.0.0.1"]
    async with browsing(flags=flags) as page:
        await page.open(f"http://starling.test:{gateway.port}/")
        await page.until("document.querySelector('#language').options.length > 50")
        await page.drop(AUDIO / "librivox_sense_0880.wav")
        await page.until("!document.querySelector('#notice').hidden")
        assert "STARLING_ALLOWED_ORIGINS" in await page.text("#notice-text")


async def test_a_full_server_says_so(make_gateway: MakeGateway, page: Page) -> None:
    gateway = make_gateway(max_sessions=1)
    async with speaking(gateway.url) as speaker:
        await speaker.say({"language": "en"})
        await speaker.next("session")
        await visit(page, gateway.port)
        await page.click("#start")
        await page.until("!document.querySelector('#notice').hidden")
        assert "full" in await page.text("#notice-text")
        await speaker.say({"type": "end"})
        await speaker.listen()
    await page.click("#start")
    await page.until(f"{STATUS} === 'Listening'")


@contextmanager
def served(body: bytes) -> Iterator[str]:
    """The address of one page on a host of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_the_example_in_the_documentation(make_gateway: MakeGateway, page: Page) -> None:
    text = (SOURCE_ROOT / "docs" / "clients.md").read_text()
    [example] = re.findall(r"```html\n<!-- example: browser -->\n(.*?)```", text, flags=re.DOTALL)
    assert len(example.splitlines()) <= 22
    # The page's address must be known to the gateway, and the gateway's to the page.
    gateway = make_gateway(allowed_origins=["*"])
    with served(example.replace("127.0.0.1:8000", f"127.0.0.1:{gateway.port}").encode()) as address:
        await page.open(address)
        await page.click("button")
        await page.until("document.querySelector('button').textContent === 'Stop'")
        await page.until("document.querySelector('#words').childNodes.length >= 4")
        await page.click("button")
        await page.until("document.querySelector('button').textContent === 'Done'")
        assert spoken(*SPOKEN).word_error_rate(await page.text("#words")) <= 0.3
        assert [line for line in page.complaints if "favicon" not in line] == []


async def test_a_page_of_an_origin_that_is_not_allowed_is_told(gateway: GatewayProcess, page: Page) -> None:
    with served(b"<!doctype html><title>elsewhere</title>") as address:
        await page.open(address)
        kind = await page.evaluate(f"""(async () => {{
            const {{ StarlingSession }} = await import("http://127.0.0.1:{gateway.port}/starling.js");
            const session = new StarlingSession("{gateway.url}");
            return session.opened.then(() => "opened", (error) => error.kind);
        }})()""")
    assert kind == "unreachable", "the browser keeps the reason from a page of another origin"


async def test_no_text_becomes_markup(gateway: GatewayProcess, page: Page) -> None:
    """What a hypothesis could say at worst, put in where the page takes what the server says."""
    await visit(page, gateway.port)
    await page.evaluate(f"""(async () => {{
        const {{ Transcript }} = await import("/transcript.js");
        const transcript = new Transcript();
        const words = {{ text: {json.dumps(HEAVY)}, seq: 0, start: 0, end: 1, stable: 5, language: "en" }};
        transcript.add(words);
        transcript.showPartial({{ ...words, seq: 1 }});
    }})()""")
    assert await words(page) == [HEAVY]
    assert await page.text("#partial-words") == HEAVY
    assert await page.evaluate("document.querySelectorAll('main img').length") == 0
    refused = await page.evaluate(f"""(() => {{
        try {{ document.querySelector("main").innerHTML = {json.dumps(HEAVY)}; return ""; }}
        catch (error) {{ return error.name; }}
    }})()""")
    assert refused == "TypeError", "the policy keeps even a mistake in the page from making markup of text"
