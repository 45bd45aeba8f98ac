"""HTTP service: POST a photo, receive the result and its record."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import prometheus_client
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
from .server import ApiKey, Check, DeadlineExceeded, Limits, QueueFull, RequestQueue, deadline_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ..anonymizer import Anonymizer

_MediaType = Literal["image/png", "image/webp", "image/jpeg"]
_MEDIA_TYPES = get_args(_MediaType)


class ErrorMessage(BaseModel):
    """Body of an error response."""

    error: str = Field(description="One line: the thing, the problem, the remedy.")


class AnonymizedPhoto(BaseModel):
    """Body of a result with its record."""

    media_type: _MediaType
    image: str = Field(description="The encoded image in Base64.")
    record: dict[str, Any] = Field(description="The image record, as in the command line's --report.")


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": dict.fromkeys(
            (*_MEDIA_TYPES, "image/tiff", "image/gif", "image/heic", "application/octet-stream"), _BINARY
        ),
    }
}
_RESULT: dict[int | str, dict[str, Any]] = {
    200: {
        "model": AnonymizedPhoto,
        "description": "The image; with Accept: application/json, the image and its record.",
        "content": dict.fromkeys(_MEDIA_TYPES, _BINARY),
        "headers": {
            "Deid-Status": {"schema": {"type": "string", "enum": ["done", "no_face"]}},
            "Deid-Faces": {
                "schema": {"type": "string"},
                "description": "Counts by action, such as replaced=2, covered=1; or none.",
            },
        },
    }
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorMessage, "description": description}
    for code, description in {
        400: "The connection was closed, or the request is malformed.",
        401: "The API key is missing or wrong.",
        408: "The photo took too long to arrive.",
        413: "The photo has more bytes than the limit.",
        415: "The body is a form instead of a photo.",
        422: "The body is not an image or has too many pixels, or the parameters cannot be satisfied.",
        500: "Internal error.",
        503: "The queue is full; see Retry-After.",
        504: "The result took too long.",
    }.items()
}


async def _read_photo(request: Request, limits: Limits) -> bytes:
    """Read the body of a request. Raises HTTPException for more bytes than the limit, as soon as that is known.

    Starlette's body limit would answer in plain text, without a remedy.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.max_bytes:
            raise _too_large(limits)
    return bytes(body)


def _check_headers(request: Request, limits: Limits) -> None:
    """Raise HTTPException for a form, or a declared size over the limit, before the body is read."""
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise HTTPException(
            415, "the body is a form: send the photo itself, as curl --data-binary @photo.jpg does, not curl -F"
        )
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limits.max_bytes:
        raise _too_large(limits)


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"the photo is over the limit of {limits.max_bytes} bytes: downscale it first")


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

    def options(self, pseudonyms: Pseudonyms | None) -> Options:
        """Return the options, with the server's pseudonyms for generated faces. Raises UsageError."""
        if pseudonyms is not None and self.seed is not None:
            raise UsageError("seed: this server assigns pseudonyms by its key: leave out the seed")
        values = self.model_dump(exclude={"format", "require_face"})
        values |= {"keep": parse_keep(self.keep), "change": parse_change(self.change)}
        return Options(**values, pseudonyms=pseudonyms if self.method == "generate" else None)


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
    """Anonymise one uploaded photo by `Anonymizer.anonymize_bytes`, whose arguments and errors these are.

    Args:
        file_format: one of `SUFFIXES`.
        check: called before the work and after each denoising step; an exception that it raises ends the work.
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


_BUCKETS = (0.5, 1, 2, 5, 10, 20, 60, 120, 300)  # seconds


class Metrics:
    """Prometheus metrics of one service.

    Attributes:
        queue: gauge of the photos accepted and not yet answered.
    """

    def __init__(self) -> None:
        self._registry = registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        self._photos = prometheus_client.Counter(
            "deid_photos", "Finished photos, by status.", ["status"], registry=registry
        )
        self._faces = prometheus_client.Counter("deid_faces", "Faces, by action.", ["action"], registry=registry)
        self._refused = prometheus_client.Counter(
            "deid_refused", "Refused requests, by HTTP status.", ["code"], registry=registry
        )
        self._seconds = prometheus_client.Histogram(
            "deid_photo_seconds", "Processing time of a photo, without waiting.", buckets=_BUCKETS, registry=registry
        )
        self.queue = prometheus_client.Gauge("deid_queue", "Photos accepted and not yet answered.", registry=registry)

    def count_photo(self, record: ImageRecord) -> None:
        """Count a finished photo and its faces."""
        self._photos.labels(record.status).inc()
        self._seconds.observe(record.seconds)
        for face in record.faces:
            self._faces.labels(face.action).inc()

    def count_refusal(self, code: int) -> None:
        """Count a request that was answered by an error."""
        self._refused.labels(str(code)).inc()

    def text(self) -> bytes:
        """Return all metrics in the text format 0.0.4 of Prometheus."""
        return prometheus_client.generate_latest(self._registry)


logger = logging.getLogger(__name__)
_NAME = "photo"  # in messages and records: file names can identify people
_bearer = HTTPBearer(auto_error=False, description="The server's API key, if it has one.")


def make_app(
    anonymizer: Anonymizer, limits: Limits, *, api_key: ApiKey | None = None, pseudonyms: Pseudonyms | None = None
) -> FastAPI:
    """Return the service as an ASGI application.

    Args:
        anonymizer: with its model loaded; used by one thread at a time.
        limits: of all requests together.
        api_key: required for photos and metrics; None admits everybody.
        pseudonyms: shared by all requests.
    """
    queue = RequestQueue(limits)
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        queue.close()

    app = FastAPI(
        title="deid-diffusion",
        version=__version__,
        summary="Replaces every face in a photo by a different, realistic face.",
        docs_url=None,  # its page loads scripts from other servers
        redoc_url=None,
        lifespan=lifespan,
    )
    _add_error_handlers(app, metrics)

    async def authorise(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
        if api_key is None or (credentials is not None and api_key.is_same(credentials.credentials)):
            return
        problem = "the API key is wrong" if credentials else "this service needs an API key"
        raise HTTPException(401, f"{problem}: send it as Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})

    authorised = [Depends(authorise)]

    @app.post(
        "/v1/anonymize",
        dependencies=authorised,
        response_class=Response,
        responses=_RESULT | _ERRORS,
        openapi_extra=_BODY,
    )
    async def anonymize(request: Request, params: Annotated[AnonymizeParams, Query()]) -> Response:
        """Replace every face of the photo in the body; faces that cannot be replaced are covered.

        The response is the image, with counts in its headers; with `Accept: application/json` it is the image in
        Base64 together with its record.
        """
        options = params.options(pseudonyms)
        _check_headers(request, limits)
        with queue.place(), metrics.queue.track_inprogress():
            data = await asyncio.wait_for(_read_photo(request, limits), limits.seconds)

            work = partial(
                anonymize_request,
                anonymizer,
                data,
                _NAME,
                options,
                file_format=params.format,
                max_pixels=limits.max_pixels,
                require_face=params.require_face,
            )
            future = queue.submit(lambda check: work(check=check))
            try:
                encoded, record = await asyncio.wait_for(asyncio.wrap_future(future), limits.seconds)
            except asyncio.TimeoutError as error:
                raise deadline_error(limits) from error
        metrics.count_photo(record)
        return _response(encoded, record, f"image/{params.format}", request.headers.get("accept", ""))

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Report that the model is loaded; needs no key."""
        return {"status": "ok", "version": __version__, "model": anonymizer.model_name}

    @app.get("/metrics", dependencies=authorised, response_class=Response, responses={401: _ERRORS[401]})
    async def prometheus() -> Response:
        """Return the metrics in Prometheus's text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    return app


def _response(encoded: bytes, record: ImageRecord, media_type: str, accept: str) -> Response:
    counts = Counter(face.action for face in record.faces)
    headers = {
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Deid-Status": record.status,
        "Deid-Faces": ", ".join(f"{action}={number}" for action, number in counts.items()) or "none",
    }
    if "application/json" in accept and "image/" not in accept:
        image = base64.b64encode(encoded).decode()
        values = {"media_type": media_type, "image": image, "record": json.loads(record.to_json())}
        return JSONResponse(values, headers=headers)
    return Response(encoded, media_type=media_type, headers=headers)


def _add_error_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Answer every error by an `ErrorMessage`."""

    def respond(code: int, text: object, headers: Mapping[str, str] | None = None) -> Response:
        metrics.count_refusal(code)
        return JSONResponse({"error": one_line(text)}, code, {"Cache-Control": "no-store", **(headers or {})})

    @app.exception_handler(StarletteHTTPException)
    async def http_error(request: Request, error: StarletteHTTPException) -> Response:
        return respond(error.status_code, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid_parameter(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return respond(422, f"{place}: {first['msg']}: see /openapi.json for the parameters")

    def answer(code: int, text: str | None = None, headers: Mapping[str, str] | None = None) -> Callable[..., Any]:
        async def handler(request: Request, error: Exception) -> Response:
            return respond(code, text or error, headers)

        return handler

    for kind, handler in {
        ImageError: answer(422),
        UsageError: answer(422),
        ClientDisconnect: answer(400, "the connection was closed"),
        QueueFull: answer(503, headers={"Retry-After": "5"}),
        DeadlineExceeded: answer(504),
        asyncio.TimeoutError: answer(408, "the photo took too long to arrive: use a faster connection"),
    }.items():
        app.add_exception_handler(kind, handler)

    @app.middleware("http")
    async def internal_error(request: Request, call_next: Callable[[Request], Any]) -> Response:
        try:
            return await call_next(request)
        except Exception as error:  # its text can hold paths of this machine, so it goes only to the log
            logger.error("internal error: %s: %s", type(error).__name__, one_line(error))
            logger.debug("", exc_info=error)
            return respond(500, f"internal error: {type(error).__name__}: see the service's log, and please report it")
