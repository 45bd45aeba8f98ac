"""The body of a request, read into memory up to a limit: nothing of a photo touches the disk."""

from __future__ import annotations

from fastapi import HTTPException, Request

from .limits import Limits


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
