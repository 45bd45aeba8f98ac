"""What the service's OpenAPI description says of bodies and answers."""

from __future__ import annotations

from typing import Any

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
