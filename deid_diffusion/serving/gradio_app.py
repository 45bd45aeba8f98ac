"""ASGI application of the web page: Gradio behind a password, downloads from memory, private upload folder."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import anyio
import gradio as gr
from fastapi import FastAPI, HTTPException, Response
from fastapi.security import HTTPBasic
from filelock import FileLock, Timeout
from starlette.datastructures import MutableHeaders
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from ..identity.pseudonyms import Pseudonyms
from .gradio_page import MAX_PHOTOS, Page, Result, Session, make_page
from .server import ApiKey, Limits, RequestQueue

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ..anonymizer import Anonymizer


_API = "/gradio_api"
_CLOSED = (
    f"{_API}/file",
    f"{_API}/proxy",
    f"{_API}/stream",
    f"{_API}/component_server",
    "/monitoring",
)
_MAX_BODY = 1_000_000  # bytes of a request other than an upload
_FORM_BYTES = 10_000  # of an upload, per file: its part's header and boundary
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; "
        "frame-ancestors 'none'; form-action 'self'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="deid-diffusion", charset="UTF-8"'}
_basic = HTTPBasic(auto_error=False)


class SecurityMiddleware:
    """ASGI middleware: password, closed addresses, body limits, and a policy against requests to other servers.

    With a key it asks for HTTP Basic credentials (RFC 7617, any user name) on every address; Gradio's
    `auth_dependency` leaves some unguarded. Addresses that serve uploads, or that make the server fetch from others,
    are closed: the page uses none of them.
    """

    def __init__(self, app: ASGIApp, api_key: ApiKey | None, max_bytes: int) -> None:
        self._app, self._api_key = app, api_key
        self._max_upload = MAX_PHOTOS * (max_bytes + _FORM_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return None
        if not await self._is_authorised(Request(scope)):
            response = PlainTextResponse("enter the server's API key as the password; any user name", 401, _CHALLENGE)
            return await response(scope, receive, send)
        if scope["path"].startswith(_CLOSED):
            return await PlainTextResponse("not found", 404)(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        limit = self._max_upload if scope["path"] == f"{_API}/upload" else _MAX_BODY
        return await RequestBodyLimitMiddleware(self._app, limit)(scope, receive, send_with_headers)

    async def _is_authorised(self, request: Request) -> bool:
        if self._api_key is None:
            return True
        try:
            credentials = await _basic(request)
        except HTTPException:  # no Base64
            return False
        return credentials is not None and self._api_key.is_same(credentials.password)


def make_app(
    anonymizer: Anonymizer,
    limits: Limits,
    folder: Path,
    *,
    api_key: ApiKey | None = None,
    pseudonyms: Pseudonyms | None = None,
) -> ASGIApp:
    """Return the page as an ASGI application, to be used inside `upload_dir`, which yields its folder.

    Args:
        anonymizer: with its model loaded; used by one thread at a time.
        limits: of all sessions together.
        folder: of uploads and of the sessions' stores.
        api_key: the password; None admits everybody.
        pseudonyms: shared by all sessions; None gives each session its own.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_delete_stale_uploads, folder)
            yield
            tasks.cancel_scope.cancel()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    @app.get("/result/{token}/all.zip")
    def download_all(token: str) -> Response:
        return _download(_zip(_results(token)), "anonymous.zip", "application/zip")

    @app.get("/result/{token}/{index}/{part}")
    def download(token: str, index: int, part: Literal["picture", "record"]) -> Response:
        results = _results(token)
        if not 0 <= index < len(results):
            raise _gone()
        result = results[index]
        if part == "record":
            record = json.dumps(json.loads(result.record), indent=2) + "\n"
            return _download(record.encode(), f"{result.name}.json", "application/json")
        return _download(result.data, result.name, _MEDIA_TYPES[Path(result.name).suffix])

    page = make_page(Page(anonymizer, RequestQueue(limits), pseudonyms, folder))
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
        head=f"<style>{_CSS.read_text()}</style>",  # css= would apply to a part of the page only
    )
    return SecurityMiddleware(app, api_key, limits.max_bytes)


_CSS = Path(__file__).with_name("page.css")
_MEDIA_TYPES = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg"}


def _theme() -> gr.themes.Base:
    """Return a theme with system fonts, so that none is fetched, and colours of sufficient contrast."""
    colours = {
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
    font: list[gr.themes.Font | str] = [gr.themes.Font("system-ui"), "sans-serif"]
    font_mono: list[gr.themes.Font | str] = [gr.themes.Font("ui-monospace"), "monospace"]
    return gr.themes.Soft(primary_hue="teal", neutral_hue="slate", font=font, font_mono=font_mono).set(**colours)


def _results(token: str) -> list[Result]:
    session = Session.find(token)
    if session is None:
        raise _gone()
    return list(session.results.values())


def _gone() -> HTTPException:
    return HTTPException(404, "this result is no longer available: its tab was closed, or the photos were run again")


def _zip(results: list[Result]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for result in results:
            archive.writestr(result.name, result.data)
        archive.writestr("records.jsonl", "".join(f"{result.record}\n" for result in results))
    return buffer.getvalue()


def _download(data: bytes, name: str, media_type: str) -> Response:
    disposition = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    return Response(
        data, media_type=media_type, headers={"Content-Disposition": disposition, "Cache-Control": "no-store"}
    )


_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 1_000_000_000  # containers often have less
_PREFIX, _LOCK, _UPLOADS = "deid-web-", "lock", "uploads"
_MAX_AGE = 900  # seconds


def upload_parent() -> Path:
    """Return the folder for upload folders: in memory on Linux, if at least 1 GB is free there."""
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _MEMORY_BYTES:
        return _MEMORY
    return Path(tempfile.gettempdir())


@contextmanager
def open_app(anonymizer: Anonymizer, limits: Limits, **secrets: Any) -> Iterator[ASGIApp]:
    """Yield the page as `make_app` returns it, with an upload folder that exists inside the block only."""
    with upload_dir() as folder:
        yield make_app(anonymizer, limits, folder, **secrets)


@contextmanager
def upload_dir(parent: Path | None = None) -> Iterator[Path]:
    """Create a private folder in which Gradio and `tempfile` put uploads inside the block; delete it at the end.

    Folders that killed processes left behind are deleted first.
    """
    parent = parent or upload_parent()
    for lock in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError, Timeout), FileLock(lock, timeout=0):  # another user's, in use, or deleted meanwhile
            shutil.rmtree(lock.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    uploads = folder / _UPLOADS
    previous = tempfile.tempdir, os.environ.get("GRADIO_TEMP_DIR")
    with FileLock(folder / _LOCK):
        uploads.mkdir(mode=0o700)
        tempfile.tempdir = os.environ["GRADIO_TEMP_DIR"] = str(uploads)
        try:
            yield folder
        finally:
            tempfile.tempdir = previous[0]
            os.environ.pop("GRADIO_TEMP_DIR")
            if previous[1] is not None:
                os.environ["GRADIO_TEMP_DIR"] = previous[1]
            shutil.rmtree(folder, ignore_errors=True)


async def _delete_stale_uploads(folder: Path) -> None:
    while True:
        await anyio.to_thread.run_sync(delete_stale_uploads, folder)
        await anyio.sleep(60)


def delete_stale_uploads(folder: Path) -> None:
    """Delete old uploads that no session has read; Gradio's `delete_cache` ignores interrupted ones."""
    for path in (folder / _UPLOADS).rglob("*"):
        with suppress(OSError):
            if path.is_file() and time.time() - path.stat().st_mtime > _MAX_AGE:
                path.unlink()
