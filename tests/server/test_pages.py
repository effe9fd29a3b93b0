"""The page's files: what is served, with which headers, and what is not."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from server.config import load
from server.pages import WEB, Pages


@pytest.fixture(scope="module")
def pages() -> Pages:
    return Pages.load(load())


def ask(pages: Pages, path: str, method: str = "GET", **headers: str) -> Response:
    given = Headers({name.replace("_", "-"): value for name, value in headers.items()})
    return pages.answer(path, Request(path, given, method))


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/index.html", "text/html; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/starling.js", "text/javascript; charset=utf-8"),
        ("/capture-worklet.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/offer.json", "application/json"),
    ],
)
def test_each_file_has_the_type_that_browsers_insist_on(pages: Pages, path: str, content_type: str) -> None:
    answer = ask(pages, path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == content_type
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert int(answer.headers["Content-Length"]) == len(answer.body) > 0


def test_every_file_that_a_file_names_is_served(pages: Pages) -> None:
    names = set()
    for file in WEB.iterdir():
        text = file.read_text()
        names |= set(re.findall(r"""(?:src|href)="([a-z-]+\.[a-z]+)""", text))
        names |= set(re.findall(r"""^(?:import|export) .*?from "\./([^"]+)";""", text, re.MULTILINE | re.DOTALL))
        names |= set(re.findall(r"""(?:fetch|new URL)\("([a-z-]+\.[a-z]+)\b""", text))
    assert {"page.js", "style.css", "capture-worklet.js", "resampler.js", "offer.json"} <= names
    assert all(f"/{name}" in pages for name in names)


def test_the_policy_allows_nothing_from_elsewhere_and_nothing_inline(pages: Pages) -> None:
    policy = dict(part.split(" ", 1) for part in ask(pages, "/").headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    allowed = {source for sources in policy.values() for source in sources.split()}
    assert allowed == {"'none'", "'self'", "'script'"}


def test_no_file_asks_for_anything_of_another_host() -> None:
    for file in WEB.iterdir():
        found = re.findall(r"""["'(](?:https?:)?//[^/\s]""", file.read_text().replace("http://www.w3.org/2000/svg", ""))
        assert not found, file


def test_a_copy_that_is_still_good_is_not_sent_again(pages: Pages) -> None:
    etag = ask(pages, "/page.js").headers["ETag"]
    for given in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = ask(pages, "/page.js", If_None_Match=given)
        assert (answer.status_code, answer.body) == (304, b"")
        assert answer.headers["ETag"] == etag
        assert answer.headers["Cache-Control"] == "no-cache"
    assert ask(pages, "/page.js", If_None_Match='"other"').status_code == 200


def test_the_etag_changes_with_the_content() -> None:
    one, two = (ask(Pages({"/a.js": body}), "/a.js").headers["ETag"] for body in (b"1", b"2"))
    assert one != two


@pytest.mark.parametrize(
    ("path", "shared"), [("/", None), ("/offer.json", None), ("/starling.js", "*"), ("/capture-worklet.js", "*")]
)
def test_other_origins_may_import_modules_and_read_nothing_else(pages: Pages, path: str, shared: str | None) -> None:
    assert ask(pages, path).headers.get("Access-Control-Allow-Origin") == shared


def test_the_offer_is_that_of_the_settings(tmp_path: Path) -> None:
    settings = load(models={"asr": ["en"], "other": ["te", "auto"]}, default_language="te")
    offer = {"default_language": "te", "languages": ["auto", "en", "te"], "keys": False}
    assert json.loads(ask(Pages.load(settings), "/offer.json").body) == offer
    with_keys = settings.model_copy(update={"keys_file": tmp_path / "keys.json"})
    assert json.loads(ask(Pages.load(with_keys), "/offer.json").body) == {**offer, "keys": True}


def test_only_what_belongs_to_the_page_is_served(tmp_path: Path) -> None:
    for name in ("index.html", "notes.txt", ".env", "page.js.bak"):
        (tmp_path / name).write_text("x")
    pages = Pages.load(load(), tmp_path)
    assert "/" in pages
    for path in ("/notes.txt", "/.env", "/page.js.bak", "/../server/config.py", "//index.html", ""):
        assert path not in pages


def test_without_the_folder_there_is_no_page(tmp_path: Path) -> None:
    pages = Pages.load(load(), tmp_path / "nothing")
    assert "/" not in pages
    assert "/offer.json" in pages


@pytest_asyncio.fixture
async def port(pages: Pages) -> AsyncIterator[int]:
    def answer(connection: ServerConnection, request: Request) -> Response | None:
        return pages.answer("/", request)

    async def nobody(connection: ServerConnection) -> None:
        raise AssertionError("every request is answered before the upgrade")

    async with serve(nobody, "127.0.0.1", 0, process_request=answer) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("POST", 405), ("DELETE", 405)])
async def test_methods_on_the_wire(port: int, pages: Pages, method: str, status: int) -> None:
    def request() -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(method, "/", headers={"Content-Length": "0"} if method == "POST" else {})
        answer = connection.getresponse()
        result = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return result

    got, headers, body = await asyncio.to_thread(request)
    assert got == status
    whole = ask(pages, "/").body
    assert body == (whole if method == "GET" else b"")
    assert int(headers["Content-Length"]) == (len(whole) if status == 200 else 0)
    assert headers.get("Allow") == (None if status == 200 else "GET, HEAD")
