"""What a node says of a batch of photos: the library's records, one JSON line a photo."""

from __future__ import annotations

from collections.abc import Sequence

from .. import report
from ..anonymizer import AnonymizedImage
from ..report import ImageReport


def record_lines(results: Sequence[AnonymizedImage], *, model: str | None, gate: str, seconds: Sequence[float]) -> str:
    """JSON lines of `ImageReport`, in the batch's order; a photo's name is its place in the batch.

    Args:
        results: of each photo.
        model: the generator's name; None where somebody else generated.
        gate: what judged the results.
        seconds: that each photo took.
    """
    versions = report.versions()
    lines = [
        ImageReport(
            input=f"image {k}",
            output=f"image {k}",
            status="done" if one.faces else "no_face",
            width=one.image.width,
            height=one.image.height,
            faces=one.faces,
            model=model,
            gate=gate,
            versions=versions,
            seconds=round(took, 3),
        ).to_json()
        for k, (one, took) in enumerate(zip(results, seconds, strict=True))
    ]
    return "\n".join(lines)
