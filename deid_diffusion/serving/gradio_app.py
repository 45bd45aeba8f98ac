"""The page as an ASGI application: Gradio behind a door, downloads from memory, no word to any other server."""

from __future__ import annotations

import base64
import binascii
import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import gradio as gr
from fastapi import FastAPI, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse

from ..identity.pseudonyms import Pseudonyms
from .access import ApiKey
from .gradio_page import CSS, Page, make_page
from .gradio_sessions import MAX_PHOTOS, Session, Sessions
from .queue import Limits, RequestQueue

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ..anonymizer import Anonymizer


_CLOSED = ("/gradio_api/file", "/gradio_api/proxy", "/gradio_api/stream", "/gradio_api/component_server", "/monitoring")
_UPLOAD = "/gradio_api/upload"
_MAX_OTHER = 1_000_000  # bytes of a request that brings no photo
_FORM = 10_000  # bytes that a form adds to its files
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; "
    "frame-ancestors 'none'; form-action 'self'"
)


class SecurityMiddleware:
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


_TYPES = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg"}


def make_app(
    anonymizer: Anonymizer,
    limits: Limits,
    folder: Path,
    *,
    api_key: ApiKey | None = None,
    people: Pseudonyms | None = None,
) -> ASGIApp:
    """The page, inside a `workplace`.

    Args:
        anonymizer: with its model loaded; used by one thread at a time.
        limits: of all visitors together.
        folder: the workplace.
        api_key: the password; None lets everybody in.
        people: gives each person one pseudonym, for all visitors who ask for that; None gives each tab its own.
    """
    sessions = Sessions()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/result/{token}/all.zip")
    def everything(token: str) -> Response:
        session = sessions.with_token(token)
        return _gone() if session is None else _file(_zip(session), "anonymous.zip", "application/zip")

    @app.get("/result/{token}/{number}/{part}")
    def one(token: str, number: int, part: Literal["picture", "record"]) -> Response:
        session = sessions.with_token(token)
        results = [] if session is None else list(session.results.values())
        if not 0 <= number < len(results):
            return _gone()
        result = results[number]
        if part == "picture":
            return _file(result.data, result.name, _TYPES[Path(result.name).suffix])
        return _file(_pretty(result.record), f"{result.name}.json", "application/json")

    page = make_page(Page(anonymizer, RequestQueue(limits), sessions, people, folder))
    gr.mount_gradio_app(
        app,
        page,
        "/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=limits.max_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        theme=_theme(),
        head=f"<style>{CSS.read_text()}</style>",  # css= would be confined to a part of the page
    )
    return SecurityMiddleware(app, api_key, limits.max_bytes)


def _theme() -> gr.themes.Base:
    """The system's own fonts, so that none is fetched; colours dark enough to read."""
    dark_enough = {
        "body_text_color_subdued": "*neutral_600",
        "block_title_text_color": "*primary_900",
        "block_label_text_color": "*primary_900",
        "block_info_text_color": "*neutral_600",
        "button_primary_background_fill": "*primary_700",
        "button_primary_background_fill_hover": "*primary_800",
        "checkbox_label_background_fill_selected": "*primary_700",
        "checkbox_background_color_selected": "*primary_900",
        "color_accent": "*primary_600",
    }
    system: list[gr.themes.Font | str] = [gr.themes.Font("system-ui"), "sans-serif"]
    mono: list[gr.themes.Font | str] = [gr.themes.Font("ui-monospace"), "monospace"]
    return gr.themes.Soft(primary_hue="teal", neutral_hue="slate", font=system, font_mono=mono).set(**dark_enough)


def _zip(session: Session) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for result in session.results.values():
            archive.writestr(result.name, result.data)
        archive.writestr("records.jsonl", "".join(f"{one.record}\n" for one in session.results.values()))
    return buffer.getvalue()


def _pretty(record: str) -> bytes:
    return (json.dumps(json.loads(record), indent=2) + "\n").encode()


def _file(data: bytes, name: str, media_type: str) -> Response:
    """A download; the page's links name the file for browsers, so the header needs ASCII only."""
    plain = "".join(one if one.isascii() and (one.isalnum() or one in "._-") else "_" for one in name)
    headers = {"Content-Disposition": f'attachment; filename="{plain}"', "Cache-Control": "no-store"}
    return Response(data, media_type=media_type, headers=headers)


def _gone() -> Response:
    return PlainTextResponse("this result is gone: its tab was closed, or its photos were processed again", 404)
