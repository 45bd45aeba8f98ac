"""Demonstration: a sample photo, its result, both side by side with the semantic map, and the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DeidError
from ..evaluation.inspection import draw_maps, side_by_side
from ..io import images
from ..io.files import prepare_folder, write_atomic
from ..options import Options
from ..results import ImageRecord

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer


NAMES = ("demo.png", "astronaut.png", "demo.json")
"""Output files: original, map and result side by side; the result; the record."""


_INPUT = "skimage.data.astronaut()"
_SEED = 0  # the same demonstration for everybody; the record holds it


def run_demo(anonymizer: Anonymizer, folder: Path) -> ImageRecord:
    """De-identify scikit-image's astronaut photo (NASA, public domain), (512, 512, 3) uint8 RGB, without network.

    Args:
        anonymizer: with its model loaded.
        folder: gets the files of `NAMES`, which replace those of an earlier demo.

    Returns:
        The record. Its input hash is that of the photo as a PNG.

    Raises:
        DeidError: scikit-image is missing, or the folder cannot be written or holds other files of those names.
    """
    prepare_folder(folder)
    _check_names(folder)
    pixels = _astronaut()
    picture, photo, record_file = (folder / name for name in NAMES)
    data = images.encode("astronaut.png", pixels, ai_edited=False)
    encoded, record = anonymizer.anonymize_bytes(data, Options(seed=_SEED), name=_INPUT, output=photo)
    result = images.decode(encoded, photo).pixels
    panels = [("original", pixels), ("semantic map", draw_maps(pixels, anonymizer.analyse(pixels))), ("result", result)]
    write_atomic(photo, encoded, overwrite=True)
    images.write(picture, side_by_side(panels), overwrite=True)
    text = json.dumps(json.loads(record.to_json()), indent=2) + "\n"
    write_atomic(record_file, text.encode(), overwrite=True)
    return record


def _check_names(folder: Path) -> None:
    """Raise DeidError if files would be replaced that no demo wrote."""
    existing = [folder / name for name in NAMES if (folder / name).exists()]
    if not existing:
        return
    try:
        ours = ImageRecord.from_json((folder / NAMES[2]).read_text()).input == _INPUT
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise DeidError(f"{existing[0]}: exists already, and was not written by demo: choose another folder with -o")


def _astronaut() -> np.ndarray:
    try:
        from skimage import data
    except ImportError as error:
        raise DeidError("demo: its photo comes with scikit-image: pip install scikit-image") from error
    return np.ascontiguousarray(data.astronaut())
