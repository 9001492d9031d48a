"""The plain HTTP side of the port: the page, health, metrics, and who may open a websocket.

A page of another site must not talk to a server on this machine: a browser names the page's origin,
which has to be this very host. And a name that somebody else's DNS points here (rebinding) would
pass that test, so a server on the loopback address answers to addresses and ``localhost`` only.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from websockets.datastructures import Headers, MultipleValuesError
from websockets.http11 import Request, Response

WEBSOCKET_PATH = "/ws"


@dataclass(frozen=True)
class Routes:
    """Answers to plain requests.

    Args:
        is_loopback: The server listens on this machine's own address only.
        health: Status and facts, asked on every request.
        metrics: Prometheus text, asked on every request.
    """

    is_loopback: bool
    health: Callable[[], tuple[HTTPStatus, dict[str, Any]]]
    metrics: Callable[[], str]

    def respond(self, request: Request) -> Response | None:
        """The response, or None to let the websocket handshake go on."""
        try:
            host = request.headers.get("Host", "")
            origin = request.headers.get("Origin")
        except MultipleValuesError:
            return _text(HTTPStatus.BAD_REQUEST, "one Host and one Origin, please\n")
        if self.is_loopback and not _is_local_name(host):
            return _text(HTTPStatus.FORBIDDEN, "open this server by its address or as localhost\n")
        path = urlsplit(request.path).path
        if path == WEBSOCKET_PATH:
            if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
                return _text(HTTPStatus.FORBIDDEN, "websockets from other sites are refused\n")
            return None
        if path == "/":
            return _page()
        if path == "/health":
            status, facts = self.health()
            return _response(status, "application/json", json.dumps(facts).encode() + b"\n")
        if path == "/metrics":
            kind = "text/plain; version=0.0.4; charset=utf-8"
            return _response(HTTPStatus.OK, kind, self.metrics().encode())
        return _text(HTTPStatus.NOT_FOUND, "here are /, /ws, /health and /metrics\n")


def bears_token(request: Request, token: str) -> bool:
    """Whether the handshake shows ``Authorization: Bearer <token>``."""
    shown = request.headers.get_all("Authorization")
    return len(shown) == 1 and hmac.compare_digest(shown[0].encode(), f"Bearer {token}".encode())


def is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_local_name(host: str) -> bool:
    """Of a Host header: an address or localhost, with or without a port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@cache
def _page() -> Response:
    """The chat page; its policy allows the page's own script and style and nothing else."""
    html = (files("nanochat.serve") / "page" / "index.html").read_text(encoding="utf-8")

    def digest(tag: str) -> str:
        match = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert match is not None
        sha256 = hashlib.sha256(match.group(1).encode()).digest()
        return f"'sha256-{base64.b64encode(sha256).decode()}'"

    policy = (
        f"default-src 'none'; script-src {digest('script')}; style-src {digest('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    response = _response(HTTPStatus.OK, "text/html; charset=utf-8", html.encode())
    response.headers["Content-Security-Policy"] = policy
    return response


def _text(status: HTTPStatus, text: str) -> Response:
    return _response(status, "text/plain; charset=utf-8", text.encode())


def _response(status: HTTPStatus, kind: str, body: bytes) -> Response:
    headers = Headers()
    headers["Content-Type"] = kind
    headers["Content-Length"] = str(len(body))
    headers["Cache-Control"] = "no-store"
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Connection"] = "close"
    return Response(status.value, status.phrase, headers, body)
