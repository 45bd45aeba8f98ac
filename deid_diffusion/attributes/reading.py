"""What the encoder sees of a face, in words: a score for each word of each attribute, printed and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..errors import UsageError
from ..faces.analysis import FaceAnalysis
from ..faces.crop import extract
from ..generation import to_tensor
from ..models.face_encoder import FaceEncoder
from ..options import Options
from ..report import Action
from .zero_shot import SHARPNESS

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer
    from ..pipelines.face_deid import FaceDeidPipeline

_SMALL_SHARPNESS = 20.0  # of the embedded encoder, whose cosines are larger than CLIP's
_SIDE = 256  # of a drawn face, in pixels
_LINE = 20
_INK, _BAR, _PAPER = (32, 32, 32), (120, 170, 255), (255, 255, 255)


@dataclass(frozen=True)
class AttributeReading:
    """What the encoder says of one face.

    Attributes:
        scores: attribute -> word -> 0 to 1; the words of an attribute sum to 1, a phrase alone has a score of its own.
    """

    scores: Mapping[str, Mapping[str, float]]

    def best(self, name: str) -> tuple[str, float]:
        """The word of an attribute that suits best, and its score."""
        word = max(self.scores[name], key=self.scores[name].__getitem__)
        return word, self.scores[name][word]


@dataclass(frozen=True, eq=False)
class ReadFace:
    """One face of a photo, before and after.

    Attributes:
        action: what was done to it.
        crops: (S, S, 3) uint8 RGB, the original and what stands in its place.
        before: what the encoder says of the original.
        after: and of the new face; None where there is none.
    """

    action: Action
    crops: tuple[np.ndarray, np.ndarray]
    before: AttributeReading
    after: AttributeReading | None


@torch.no_grad()
def read_faces(
    pipeline: FaceDeidPipeline, photo: np.ndarray, faces: Sequence[FaceAnalysis], phrases: Sequence[str] = ()
) -> list[AttributeReading]:
    """Read the attributes of a photo's faces.

    Args:
        pipeline: whose encoders read.
        photo: (H, W, 3) uint8 RGB.
        faces: B faces of it, from `Anonymizer.analyse`; or, for a result, of the photo that it was made from.
        phrases: to be scored beside the built-in attributes.

    Raises:
        UsageError: when the pipeline has no image encoder.
        DeidError: when it reads no words.
    """
    if not faces:
        return []
    pixels = torch.stack([to_tensor(extract(photo, face.matrix, pipeline.crop_size)) for face in faces])
    features = pipeline.encode_attributes(pixels, [face.semantic_map for face in faces], [face.drawn for face in faces])
    if features is None:
        raise UsageError("this model reads no attributes: load it with image_encoder= and phrase_encoder=")
    subspace, adapter = pipeline.subspace(phrases), pipeline.attribute_adapter
    whole = features[:, 0] if adapter is None else features[:, 0] - adapter.centre[0].to(features)
    sharpness = _SMALL_SHARPNESS if isinstance(pipeline.image_encoder, FaceEncoder) else SHARPNESS
    scores = {name: subspace.scores(whole, name, sharpness).tolist() for name in subspace.words}
    return [
        AttributeReading(
            {name: dict(zip(words, scores[name][k], strict=True)) for name, words in subspace.words.items()}
        )
        for k in range(len(faces))
    ]


def compare(anonymizer: Anonymizer, photo: np.ndarray, options: Options) -> list[ReadFace]:
    """Read the faces of a photo, replace them, and read the new ones.

    Args:
        anonymizer: whose model reads and replaces.
        photo: (H, W, 3) uint8 RGB, upright.
        options: what to keep and change; phrases in it are scored as well.

    Returns:
        The faces that can be measured, in the detector's order.

    Raises:
        DeidError: as `read_faces` and `Anonymizer` do.
    """
    faces, pipeline = anonymizer.analyse(photo), anonymizer.pipeline
    before = read_faces(pipeline, photo, faces, options.choice.phrases)
    result = anonymizer(photo, options, boxes=[face.face for face in faces])
    changed = np.asarray(result.image)
    after = read_faces(pipeline, changed, faces, options.choice.phrases)
    size, found = pipeline.crop_size, []
    # Records of faces that only the second look found come last: they have no reading.
    for face, old, new, record in zip(faces, before, after, result.faces, strict=False):
        crops = extract(photo, face.matrix, size), extract(changed, face.matrix, size)
        found.append(ReadFace(record.action, crops, old, new if record.action == "replaced" else None))
    return found


def table(before: AttributeReading, after: AttributeReading | None) -> list[str]:
    """Lines of text: attribute, word and score before, and after; None for a face that was not replaced."""
    lines = [f"{'attribute':<14}{'before':<26}{'after' if after else ''}".rstrip()]
    for name in before.scores:
        cells = [f"{word} {score:.2f}" for word, score in (one.best(name) for one in (before, after) if one)]
        lines.append(f"{name:<14}{cells[0]:<26}{cells[1] if after else ''}".rstrip())
    return lines


def draw_readings(faces: Sequence[ReadFace]) -> np.ndarray:
    """A row for each face, at least one, before and after: the crop, and a bar for each attribute's best word.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    height = max(_SIDE, _LINE * max(len(face.before.scores) for face in faces))
    sheet = Image.new("RGB", (4 * _SIDE, len(faces) * height), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_LINE * 0.6)
    for row, face in enumerate(faces):
        for column, (crop, reading) in enumerate(zip(face.crops, (face.before, face.after), strict=True)):
            left, top = 2 * column * _SIDE, row * height
            sheet.paste(Image.fromarray(crop).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (left, top))
            best = [] if reading is None else [(name, *reading.best(name)) for name in reading.scores]
            for line, (name, word, score) in enumerate(best):
                x, y = left + _SIDE, top + line * _LINE
                draw.rectangle((x, y + 2, x + score * (_SIDE - 8), y + _LINE - 2), fill=_BAR)
                draw.text((x + 4, y + _LINE / 2), f"{name}: {word} {score:.2f}", fill=_INK, font=font, anchor="lm")
    return np.array(sheet)
