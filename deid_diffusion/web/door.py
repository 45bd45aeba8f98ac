"""What every request to the page has to pass: the password, sizes, and addresses that nobody needs."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse

from ..service.access import ApiKey
from .sessions import MAX_PHOTOS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_CLOSED = ("/gradio_api/file", "/gradio_api/proxy", "/gradio_api/stream", "/gradio_api/component_server", "/monitoring")
_UPLOAD = "/gradio_api/upload"
_MAX_OTHER = 1_000_000  # bytes of a request that brings no photo
_FORM = 10_000  # bytes that a form adds to its files
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; "
    "frame-ancestors 'none'; form-action 'self'"
)


class Door:
    """ASGI middleware.

    With a key, it asks for a password (HTTP Basic, RFC 7617, any user name). Bodies over the limit are refused. The
    addresses for files that Gradio has and the page does not need are closed, so nobody can read an upload. A content
    security policy keeps browsers from asking any other server.
    """

    def __init__(self, app: ASGIApp, api_key: ApiKey | None, max_bytes: int) -> None:
        self._app, self._api_key, self._max_bytes = app, api_key, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        refused = self._refusal(scope)
        if refused is not None:
            await refused(scope, receive, send)
            return

        body = _Body(receive, self._most(scope))
        started = False

        async def send_with_policy(message: Message) -> None:
            nonlocal started
            if body.too_long and not started:
                return  # whatever the application makes of half a body: the answer is below
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            await self._app(scope, body.next_message, send_with_policy)
        except ClientDisconnect:
            if not body.too_long:
                raise
        if body.too_long and not started:
            await self._too_large()(scope, receive, send)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        if self._api_key is not None and not self._api_key.is_same(_password(headers.get("authorization", ""))):
            ask = {"WWW-Authenticate": 'Basic realm="deid-diffusion", charset="UTF-8"'}
            return PlainTextResponse("the password is the API key of this server; any user name will do", 401, ask)
        if scope["path"].startswith(_CLOSED):
            return PlainTextResponse("not found", 404)
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._most(scope):
            return self._too_large()
        return None

    def _too_large(self) -> PlainTextResponse:
        return PlainTextResponse(f"over the limit of {self._max_bytes} bytes a photo", 413)

    def _most(self, scope: Scope) -> int:
        """Bytes that a request may bring."""
        if scope["path"] == _UPLOAD:
            return MAX_PHOTOS * (self._max_bytes + _FORM)
        return _MAX_OTHER


class _Body:
    """A request's body as the application sees it: one that is too long, without saying so first, breaks off."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._left = receive, most

    @property
    def too_long(self) -> bool:
        return self._left < 0

    async def next_message(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        return {"type": "http.disconnect"} if self.too_long else message


def _password(header: str) -> str:
    kind, _, text = header.partition(" ")
    if kind.lower() != "basic":
        return ""
    try:
        return base64.b64decode(text, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
