"""The service: POST a photo, get its result, with the record beside it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from .._version import __version__
from ..errors import ImageError, UsageError, one_line
from ..identity.pseudonyms import Pseudonyms
from ..report import ImageReport
from .access import ApiKey
from .answers import ERRORS, RESULT, request_body
from .body import check_head, read_photo
from .desk import Check, Desk, Full, OutOfTime, out_of_time
from .limits import Limits
from .metrics import Metrics
from .photo import Made, answer
from .wish import Wish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ..anonymizer import Anonymizer

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
    desk = Desk(limits)
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
    async def anonymize(request: Request, wish: Annotated[Wish, Query()]) -> Response:
        """Replace every face of the photo in the body; a face that cannot be replaced is covered.

        The answer is the picture, with counts in its headers; with `Accept: application/json` it is the picture in
        Base64 together with the whole record.
        """
        options = wish.options(people)
        check_head(request, limits)
        with desk.place():
            data = await asyncio.wait_for(read_photo(request, limits), limits.seconds)

            def work(check: Check) -> Made:
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


async def _until(result: asyncio.Future[Made], limits: Limits) -> Made:
    try:
        return await asyncio.wait_for(result, limits.seconds)
    except asyncio.TimeoutError as error:
        raise out_of_time(limits) from error


def _answer(made: Made, media_type: str, accept: str) -> Response:
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


def _counts(record: ImageReport) -> str:
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
    app.add_exception_handler(Full, _handler(say, 503, {"Retry-After": "5"}))
    app.add_exception_handler(OutOfTime, _handler(say, 504))

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
