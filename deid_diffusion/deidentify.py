"""A photo that has been read becomes pixels that may be written: what files, shards and tables have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .errors import ImageError
from .second_look import seen_through

if TYPE_CHECKING:
    from pathlib import Path

    from .anonymizer import AnonymizedImage, Anonymizer
    from .faces.detected_face import DetectedFace
    from .images import Photo
    from .options import Options
    from .progress import OnStep
    from .wishes import FaceWish


def deidentify(
    model: Anonymizer,
    photo: Photo,
    name: str | Path,
    options: Options,
    *,
    require_face: bool,
    boxes: Sequence[DetectedFace] | None = None,
    only: Sequence[DetectedFace] | None = None,
    wishes: Sequence[FaceWish] = (),
    on_step: OnStep | None = None,
) -> AnonymizedImage:
    """Replace the faces of a photo, and make sure that its transparency shows none that its colours do not.

    Args:
        model, options, boxes, only, wishes, on_step: see `Anonymizer`.
        photo: as `images.read` gives it.
        name: what errors call it.
        require_face: refuse a photo in which no face is found.

    Raises:
        ImageError: there is no face, or one in the transparency alone: nothing of the photo may be written.
        DeidError: as `Anonymizer` does.
    """
    result = model(photo.pixels, options, boxes=boxes, only=only, wishes=wishes, on_step=on_step)
    check_result(model, photo, name, result, options, require_face=require_face, only=only)
    return result


def check_result(
    model: Anonymizer,
    photo: Photo,
    name: str | Path,
    result: AnonymizedImage,
    options: Options,
    *,
    require_face: bool,
    only: Sequence[DetectedFace] | None,
) -> None:
    """Raise ImageError where nothing of a photo may be written; arguments are those of `deidentify`."""
    if require_face and not result.faces:
        raise ImageError(f"{name}: no face found, and --require-face asks for one: nothing written")
    known = [face.box for face in result.faces]
    if photo.alpha is not None and seen_through(
        model.detector, np.asarray(result.image), photo.alpha, known, min_face=options.min_face, only=only
    ):
        raise ImageError(f"{name}: its transparency shows a face that its colours do not: flatten it first")


def edited(result: AnonymizedImage) -> bool:
    """Whether generative AI made a part of it, which the file's mark has to say."""
    return any(face.action == "replaced" for face in result.faces)
