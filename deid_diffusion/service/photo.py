"""From the bytes of a photo to the bytes of its result and the record, with nothing on disk."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import images, report
from ..deidentify import deidentify, edited
from ..options import Options
from ..report import ImageReport
from .desk import Check

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer

SUFFIXES = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
"""Format by its name to the result's suffix; JPEG alone loses anything."""


@dataclass(frozen=True, eq=False)
class Made:
    """A finished picture.

    Attributes:
        data: the file's bytes.
        record: what was done.
        before: (H, W, 3) uint8 RGB, the upright photo.
        after: likewise, the result.
    """

    data: bytes
    record: ImageReport
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
) -> Made:
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
    record = ImageReport(
        input=name,
        output=target.name,
        status="done" if result.faces else "no_face",
        input_sha256=photo.sha256,
        output_sha256=hashlib.sha256(encoded).hexdigest(),
        width=width,
        height=height,
        faces=result.faces,
        model=anonymizer.model_name,
        gate=anonymizer.gate.description,
        versions=report.versions(),
        seconds=round(time.perf_counter() - start, 3),
    )
    return Made(encoded, record, photo.pixels, pixels)
