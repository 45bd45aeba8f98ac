"""The service: POST a photo, get its result, with the record beside it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from .. import results
from .._version import __version__
from ..anonymizer import deidentify, edited
from ..attributes.selection import parse_change, parse_keep
from ..errors import ImageError, UsageError, one_line
from ..identity.pseudonyms import Pseudonyms
from ..io import images
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


@dataclass(frozen=True, eq=False)
class ServedImage:
    """A finished picture.

    Attributes:
        data: the file's bytes.
        record: what was done.
        before: (H, W, 3) uint8 RGB, the upright photo.
        after: likewise, the result.
    """

    data: bytes
    record: ImageRecord
    before: np.ndarray
    after: np.ndarray


def answer(
    anonymizer: Anonymizer,
    data: bytes,
    name: str,
    options: Options,
    *,
    file_format: str,
    max_pixels: int,
    check: Check,
    require_face: bool = False,
) -> ServedImage:
    """Do to one photo what the command line does: the same checks, the same metadata, marks and record.

    Args:
        anonymizer: with its model loaded.
        data: the photo's bytes, in any format that `images.decode` reads.
        name: what messages and the record call it.
        options: the wishes.
        file_format: one of `SUFFIXES`.
        max_pixels: limit of width x height.
        check: called between the steps; what it raises ends the work.
        require_face: a photo in which no face is found is an error.

    Raises:
        ImageError: no photo, too large, no face although one is required, or a face that only its transparency shows.
        UsageError: wishes that the model cannot carry out.
        DeidError: the store of pseudonyms cannot be used.
    """
    start = time.perf_counter()
    photo = images.decode(data, name, max_pixels=max_pixels)
    height, width = photo.pixels.shape[:2]
    target = Path(name).with_suffix(SUFFIXES[file_format])
    images.check_target(target, (height, width), photo.alpha)
    check()
    result = deidentify(
        anonymizer, photo, name, options, require_face=require_face, on_step=lambda done, total: check()
    )
    pixels = np.asarray(result.image)
    encoded = images.encode(target, pixels, alpha=photo.alpha, icc_profile=photo.icc_profile, ai_edited=edited(result))
    record = ImageRecord(
        input=name,
        output=target.name,
        status="done" if result.faces else "no_face",
        input_sha256=photo.sha256,
        output_sha256=hashlib.sha256(encoded).hexdigest(),
        width=width,
        height=height,
        faces=result.faces,
        model=anonymizer.model_name,
        gate=anonymizer.verifier.description,
        versions=results.versions(),
        seconds=round(time.perf_counter() - start, 3),
    )
    return ServedImage(encoded, record, photo.pixels, pixels)


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

            def work(check: Check) -> ServedImage:
                return answer(
                    anonymizer,
                    data,
                    _NAME,
                    options,
                    file_format=wish.format,
                    max_pixels=limits.max_pixels,
                    check=check,
                    require_face=wish.require_face,
                )

            made = await _until(asyncio.wrap_future(desk.submit(work)), limits)
        metrics.finished(made.record)
        return _answer(made, f"image/{wish.format}", request.headers.get("accept", ""))

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Says that the model is loaded and requests are taken; needs no key."""
        return {"status": "ok", "version": __version__, "model": anonymizer.model_name}

    @app.get("/metrics", dependencies=guard, response_class=Response, responses={401: ERRORS[401]})
    async def figures() -> Response:
        """Counts and times for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    return app


async def _until(result: asyncio.Future[ServedImage], limits: Limits) -> ServedImage:
    try:
        return await asyncio.wait_for(result, limits.seconds)
    except asyncio.TimeoutError as error:
        raise deadline_check(limits) from error


def _answer(made: ServedImage, media_type: str, accept: str) -> Response:
    headers = {
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Deid-Status": made.record.status,
        "Deid-Faces": _counts(made.record),
    }
    if "application/json" in accept and "image/" not in accept:
        image = base64.b64encode(made.data).decode()
        record = json.loads(made.record.to_json())
        return JSONResponse({"media_type": media_type, "image": image, "record": record}, headers=headers)
    return Response(made.data, media_type=media_type, headers=headers)


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
