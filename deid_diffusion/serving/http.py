"""The service: POST a photo, get its result, with the record beside it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from .._version import __version__
from ..attributes.selection import parse_change, parse_keep
from ..errors import ImageError, UsageError, one_line
from ..identity.pseudonyms import Pseudonyms
from ..options import Method, Options, option_schema
from ..results import ImageRecord
from .access import ApiKey
from .queue import Check, DeadlineExceeded, Limits, Metrics, QueueFull, RequestQueue, deadline_check

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ..anonymizer import Anonymizer


_FILE = {"schema": {"type": "string", "format": "binary"}}
_IMAGES = ("image/png", "image/webp", "image/jpeg")
_HEADERS = {
    "Deid-Status": {"schema": {"type": "string", "enum": ["done", "no_face"]}},
    "Deid-Faces": {"schema": {"type": "string"}, "description": "Counts by action, as replaced=2, covered=1; or none."},
}
_WITH_RECORD = {
    "type": "object",
    "required": ["media_type", "image", "record"],
    "properties": {
        "media_type": {"type": "string", "enum": list(_IMAGES)},
        "image": {"type": "string", "contentEncoding": "base64"},
        "record": {"type": "object", "description": "As a line of the command line's --report."},
    },
}
_ERROR = {
    "application/json": {
        "schema": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    }
}
_WHY = {
    400: "The connection was closed, or the request is malformed.",
    401: "No API key, or a wrong one.",
    408: "The photo took too long to arrive.",
    413: "More bytes than the limit.",
    415: "A form instead of a photo.",
    422: "No photo, too many pixels, or wishes that cannot be carried out.",
    500: "An internal error.",
    503: "All places are taken; Retry-After says when to try again.",
    504: "It took longer than the limit.",
}

ERRORS: dict[int | str, dict[str, Any]] = {code: {"description": why, "content": _ERROR} for code, why in _WHY.items()}
"""Answers that say in one line what is wrong."""

RESULT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The picture, or with Accept: application/json the picture and the record.",
        "headers": _HEADERS,
        "content": dict.fromkeys(_IMAGES, _FILE) | {"application/json": {"schema": _WITH_RECORD}},
    }
}
"""The good answer."""


def request_body() -> dict[str, Any]:
    """The photo as the body."""
    kinds = (*_IMAGES, "image/tiff", "image/gif", "image/heic", "application/octet-stream")
    return {"requestBody": {"required": True, "content": dict.fromkeys(kinds, _FILE)}}


async def read_photo(request: Request, limits: Limits) -> bytes:
    """The photo that a request's body is.

    Raises HTTPException: 413 for more than the limit, before or while it arrives; 415 for a form.
    """
    check_head(request, limits)
    parts = bytearray()
    async for chunk in request.stream():
        parts += chunk
        if len(parts) > limits.max_bytes:
            raise too_large(limits)
    return bytes(parts)


def check_head(request: Request, limits: Limits) -> None:
    """Judge a request by its headers alone. Raises HTTPException, as `read_photo` does."""
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise HTTPException(
            415, "the body is a form: send the photo itself, as curl --data-binary @photo.jpg does, not curl -F"
        )
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limits.max_bytes:
        raise too_large(limits)


def too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"the photo is over the limit of {limits.max_bytes} bytes: scale it down first")


_Words = Annotated[str, Field(max_length=200)]


def _query(name: str, **limits: Any) -> Any:
    """Return the field of an option, with limits of the service."""
    return Field(**{**option_schema(name), **limits})


_RENAMED = {"steps": "num_inference_steps", "attempts": "num_candidates", "map_privacy": "map_blend"}


class AnonymizeParams(BaseModel):
    """Query parameters: the options that cannot leave an original face in a result.

    Names of earlier releases (`steps`, `attempts`, `map_privacy`, `method=synth`) are accepted as well.
    """

    model_config = ConfigDict(extra="forbid")

    method: Method = _query("method")
    keep: list[_Words] = _query("keep", default=[], max_length=20)
    change: list[_Words] = _query("change", default=[], max_length=20)
    seed: int | None = _query("seed", lt=2**63)
    num_candidates: int = _query("num_candidates", le=10)
    num_inference_steps: int | None = _query("num_inference_steps", le=100)
    map_blend: float = _query("map_blend")
    format: Literal["png", "webp", "jpeg"] = Field("png", description="Of the result; JPEG changes all pixels.")
    require_face: bool = Field(False, description="A photo in which no face is found is an error.")

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: Any) -> Any:
        """Take names of earlier releases; one beside its new name stays, and is refused as unknown."""
        if isinstance(values, dict):
            values = values | ({"method": "generate"} if values.get("method") == "synth" else {})
            for old, new in _RENAMED.items():
                if old in values and new not in values:
                    values[new] = values.pop(old)
        return values

    def options(self, people: Pseudonyms | None) -> Options:
        """Return the options, with pseudonyms where the server has a key. Raises UsageError."""
        if people is not None and self.seed is not None:
            raise UsageError("seed: this server gives each person one face by its key: leave the seed out")
        return Options(
            method=self.method,
            num_inference_steps=self.num_inference_steps,
            seed=self.seed,
            num_candidates=self.num_candidates,
            keep=parse_keep(self.keep),
            change=parse_change(self.change),
            map_blend=self.map_blend,
            pseudonyms=people if self.method == "generate" else None,
        )


SUFFIXES = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
"""Format by its name to the result's suffix; JPEG alone loses anything."""


def anonymize_request(
    anonymizer: Anonymizer,
    data: bytes,
    name: str,
    options: Options,
    *,
    file_format: str,
    max_pixels: int,
    check: Check,
    require_face: bool = False,
) -> tuple[bytes, ImageRecord]:
    """Anonymise one uploaded photo, as the command line does.

    Args:
        anonymizer: with its model loaded.
        data, options, max_pixels, require_face: see `Anonymizer.anonymize_bytes`.
        name: of the photo in messages and in the record.
        file_format: one of `SUFFIXES`.
        check: called before the work and after each denoising step; what it raises ends the work.

    Raises:
        DeidError: see `Anonymizer.anonymize_bytes`.
    """
    check()

    def on_step_end(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> None:
        check()

    return anonymizer.anonymize_bytes(
        data,
        options,
        name=name,
        output=Path(name).with_suffix(SUFFIXES[file_format]),
        max_pixels=max_pixels,
        require_face=require_face,
        callback_on_step_end=on_step_end,
    )


logger = logging.getLogger(__name__)
_NAME = "photo"  # what messages and records call a photo: names of files may tell of people
_bearer = HTTPBearer(auto_error=False, description="The server's API key, where it has one.")


def make_app(
    anonymizer: Anonymizer, limits: Limits, *, api_key: ApiKey | None = None, people: Pseudonyms | None = None
) -> FastAPI:
    """The ASGI application.

    Args:
        anonymizer: with its model loaded; used by one thread at a time.
        limits: of all requests together.
        api_key: which requests for photos and metrics must show; None lets everybody in.
        people: gives each person one pseudonym, in all requests.
    """
    desk = RequestQueue(limits)
    metrics = Metrics(desk)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(
        title="deid-diffusion",
        version=__version__,
        summary="Replaces every face in a photo by a different, realistic face.",
        docs_url=None,  # its page takes scripts from elsewhere
        redoc_url=None,
        lifespan=life,
    )
    _answer_errors(app, metrics)

    def authorised(shown: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
        if api_key is None or (shown is not None and api_key.is_same(shown.credentials)):
            return
        wrong = "the API key is wrong" if shown else "this service needs an API key"
        raise HTTPException(401, f"{wrong}: send it as Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})

    guard = [Depends(authorised)]

    @app.post(
        "/v1/anonymize",
        dependencies=guard,
        response_class=Response,
        responses=RESULT | ERRORS,
        openapi_extra=request_body(),
    )
    async def anonymize(request: Request, wish: Annotated[AnonymizeParams, Query()]) -> Response:
        """Replace every face of the photo in the body; a face that cannot be replaced is covered.

        The answer is the picture, with counts in its headers; with `Accept: application/json` it is the picture in
        Base64 together with the whole record.
        """
        options = wish.options(people)
        check_head(request, limits)
        with desk.place():
            data = await asyncio.wait_for(read_photo(request, limits), limits.seconds)

            def work(check: Check) -> tuple[bytes, ImageRecord]:
                return anonymize_request(
                    anonymizer,
                    data,
                    _NAME,
                    options,
                    file_format=wish.format,
                    max_pixels=limits.max_pixels,
                    check=check,
                    require_face=wish.require_face,
                )

            encoded, record = await _until(asyncio.wrap_future(desk.submit(work)), limits)
        metrics.finished(record)
        return _answer(encoded, record, f"image/{wish.format}", request.headers.get("accept", ""))

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Says that the model is loaded and requests are taken; needs no key."""
        return {"status": "ok", "version": __version__, "model": anonymizer.model_name}

    @app.get("/metrics", dependencies=guard, response_class=Response, responses={401: ERRORS[401]})
    async def figures() -> Response:
        """Counts and times for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    return app


async def _until(result: asyncio.Future[tuple[bytes, ImageRecord]], limits: Limits) -> tuple[bytes, ImageRecord]:
    try:
        return await asyncio.wait_for(result, limits.seconds)
    except asyncio.TimeoutError as error:
        raise deadline_check(limits) from error


def _answer(encoded: bytes, record: ImageRecord, media_type: str, accept: str) -> Response:
    headers = {
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Deid-Status": record.status,
        "Deid-Faces": _counts(record),
    }
    if "application/json" in accept and "image/" not in accept:
        image = base64.b64encode(encoded).decode()
        values = {"media_type": media_type, "image": image, "record": json.loads(record.to_json())}
        return JSONResponse(values, headers=headers)
    return Response(encoded, media_type=media_type, headers=headers)


def _counts(record: ImageRecord) -> str:
    """As "replaced=2, covered=1"; "none" for a photo without a face."""
    counts = Counter(face.action for face in record.faces)
    return ", ".join(f"{action}={number}" for action, number in counts.items()) or "none"


def _answer_errors(app: FastAPI, metrics: Metrics) -> None:
    """Every error is one line of JSON, {"error": "..."}."""

    def say(code: int, text: object, headers: dict[str, str] | None = None) -> Response:
        metrics.refused(code)
        return JSONResponse({"error": one_line(text)}, code, {"Cache-Control": "no-store", **(headers or {})})

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> Response:
        return say(error.status_code, error.detail, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def wrong_query(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return say(422, f"{place}: {first['msg']}: /openapi.json lists what there is")

    for kind, code in ((ImageError, 422), (UsageError, 422), (ClientDisconnect, 400)):
        app.add_exception_handler(kind, _handler(say, code))
    app.add_exception_handler(QueueFull, _handler(say, 503, {"Retry-After": "5"}))
    app.add_exception_handler(DeadlineExceeded, _handler(say, 504))

    @app.exception_handler(asyncio.TimeoutError)
    async def slow(request: Request, error: asyncio.TimeoutError) -> Response:
        return say(408, "the photo took too long to arrive: send it faster")

    @app.middleware("http")
    async def unexpected(request: Request, go_on: Callable[[Request], Any]) -> Response:
        try:
            return await go_on(request)
        except Exception as error:  # its text may hold paths of this machine, so only the log gets it
            logger.error("internal error: %s: %s", type(error).__name__, one_line(error))
            logger.debug("", exc_info=error)
            return say(500, f"internal error: {type(error).__name__}: the service's log says more; please report it")


def _handler(
    say: Callable[..., Response], code: int, headers: dict[str, str] | None = None
) -> Callable[[Request, Exception], Any]:
    async def handle(request: Request, error: Exception) -> Response:
        return say(code, error or "the connection was closed", headers)

    return handle
