"""The web page and its modules: read once at start, answered from memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import orjson
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from server.config import Settings

WEB = Path(__file__).parent.parent / "client" / "web"

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
"""What is served, by the end of its name; other files in the folder are not."""

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Nothing from elsewhere, nothing inline, and no way from a string to markup or code."""

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
    "Connection": "close",
}
"""On every file. `no-cache` means: keep it, but ask each time whether it is still the one."""

SHARED = ".js"
"""Modules, which pages of any origin may import; whether those may also connect is another setting."""


@dataclass(frozen=True, slots=True)
class Page:
    """One file as it is answered."""

    body: bytes
    content_type: str
    etag: str
    is_shared: bool


class Pages:
    """Every file that the gateway serves, by path."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._pages = {path: _page(path, body) for path, body in files.items()}
        if "/index.html" in self._pages:
            self._pages["/"] = self._pages["/index.html"]

    @classmethod
    def load(cls, settings: Settings, folder: Path = WEB) -> Pages:
        """Reads the folder; without it the gateway serves clients but no page.

        `/offer.json` tells the page what it may ask for: languages, and whether a key is needed.
        """
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        files = {f"/{file.name}": file.read_bytes() for file in found if file.suffix in CONTENT_TYPES}
        offer = {
            "default_language": settings.default_language,
            "languages": sorted(settings.languages),
            "keys": settings.keys_file is not None,
        }
        return cls({**files, "/offer.json": orjson.dumps(offer)})

    def __contains__(self, path: str) -> bool:
        return path in self._pages

    def answer(self, path: str, request: Request) -> Response:
        """The file at `path`, or that the browser's copy is still good.

        Raises:
            KeyError: there is no such file.
        """
        page = self._pages[path]
        headers = Headers(HEADERS)
        headers["ETag"] = page.etag
        if page.is_shared:
            headers["Access-Control-Allow-Origin"] = "*"
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        if request.method not in ("GET", "HEAD"):
            headers["Allow"] = "GET, HEAD"
            headers["Content-Length"] = "0"
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, headers)
        if _matches(request.headers.get_all("If-None-Match"), page.etag):
            return _response(HTTPStatus.NOT_MODIFIED, headers)
        headers["Content-Type"] = page.content_type
        headers["Content-Length"] = str(len(page.body))
        return _response(HTTPStatus.OK, headers, b"" if request.method == "HEAD" else page.body)


def _page(path: str, body: bytes) -> Page:
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    ending = Path(path).suffix
    return Page(body, CONTENT_TYPES[ending], etag, is_shared=ending == SHARED)


def _matches(headers: list[str], etag: str) -> bool:
    given = [tag.strip().removeprefix("W/") for header in headers for tag in header.split(",")]
    return etag in given or "*" in given


def _response(status: HTTPStatus, headers: Headers, body: bytes = b"") -> Response:
    return Response(int(status), status.phrase, headers, body)
