"""The page as an ASGI application: Gradio behind a door, downloads from memory, no word to any other server."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..identity.pseudonyms import Pseudonyms
from ..service.access import ApiKey
from ..service.desk import Desk
from ..service.limits import Limits

# Gradio and the hub's client read these when they are imported
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from fastapi import FastAPI, Response
from starlette.responses import PlainTextResponse

from .door import Door
from .page import CSS, Page, make_page
from .sessions import Session, Sessions

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from ..anonymizer import Anonymizer

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

    page = make_page(Page(anonymizer, Desk(limits), sessions, people, folder))
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
    return Door(app, api_key, limits.max_bytes)


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
