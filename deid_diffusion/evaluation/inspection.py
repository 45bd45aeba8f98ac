"""Visualisation of detections, meshes, semantic maps, masks and attribute readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..attributes.encoding import SHARPNESS
from ..errors import UsageError
from ..faces.alignment import extract
from ..faces.analysis import FaceAnalysis
from ..faces.semantic_map import control_image, map_in_photo
from ..generation import to_tensor
from ..models.face_encoder import FaceEncoder
from ..options import Options
from ..results import Action

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer
    from ..pipelines.face_deid import FaceDeidPipeline


MAX_SIDE = 1_600  # largest side of a panel, in pixels; larger ones are scaled down

_BUILTIN_SHARPNESS = 20.0  # softmax scale of the built-in encoder, whose cosines are larger than CLIP's
_FACE_SIDE, _LINE_HEIGHT = 256, 20  # of `draw_readings`, in pixels
_INK, _BAR, _PAPER = (32, 32, 32), (120, 170, 255), (255, 255, 255)
_BOX, _MESH, _MASK = (255, 196, 0), (0, 230, 255), (255, 0, 110)
_GAP = 8  # between panels, in pixels


@dataclass(frozen=True)
class AttributeReading:
    """Scores of one face, 0 to 1, by attribute and word.

    The words of an attribute sum to 1; a phrase has a single score.
    """

    scores: Mapping[str, Mapping[str, float]]

    def best(self, name: str) -> tuple[str, float]:
        """Return the word of an attribute with the highest score, and the score."""
        word = max(self.scores[name], key=self.scores[name].__getitem__)
        return word, self.scores[name][word]


@dataclass(frozen=True, eq=False)
class ReadFace:
    """Attributes of one face before and after replacement.

    Attributes:
        action: taken for the face.
        crops: (S, S, 3) uint8 RGB of original and result.
        before: reading of the original.
        after: reading of the new face; None if the face was not replaced.
    """

    action: Action
    crops: tuple[np.ndarray, np.ndarray]
    before: AttributeReading
    after: AttributeReading | None


@torch.no_grad()
def read_faces(
    pipeline: FaceDeidPipeline, photo: np.ndarray, faces: Sequence[FaceAnalysis], phrases: Sequence[str] = ()
) -> list[AttributeReading]:
    """Read the attributes of B faces of a photo, (H, W, 3) uint8 RGB, an original or a result.

    Args:
        pipeline: supplies the encoders.
        photo: read.
        faces: of the original, from `Anonymizer.analyse`.
        phrases: scored in addition to the built-in attributes.

    Raises:
        UsageError: the pipeline has no image encoder.
        DeidError: it cannot encode words.
    """
    if not faces:
        return []
    pixels = torch.stack([to_tensor(extract(photo, face.matrix, pipeline.crop_size)) for face in faces])
    features = pipeline.encode_attributes(
        pixels, [face.semantic_map for face in faces], [face.map_mesh for face in faces]
    )
    if features is None:
        raise UsageError("this model cannot read attributes: load it with image_encoder= and phrase_encoder=")
    subspace, adapter = pipeline.subspace(phrases), pipeline.attribute_adapter
    face_features = features[:, 0] if adapter is None else features[:, 0] - adapter.centre[0].to(features)
    sharpness = _BUILTIN_SHARPNESS if isinstance(pipeline.image_encoder, FaceEncoder) else SHARPNESS
    scores = {name: subspace.scores(face_features, name, sharpness).tolist() for name in subspace.words}
    return [
        AttributeReading(
            {name: dict(zip(words, scores[name][k], strict=True)) for name, words in subspace.words.items()}
        )
        for k in range(len(faces))
    ]


def compare(anonymizer: Anonymizer, photo: np.ndarray, options: Options) -> list[ReadFace]:
    """Read the attributes of the faces of a photo, (H, W, 3) uint8 RGB, before and after replacement.

    The phrases of `options` are scored, too. Faces are in the detector's order. Raises DeidError as `read_faces` and
    `Anonymizer`.
    """
    faces, pipeline = anonymizer.analyse(photo), anonymizer.pipeline
    before = read_faces(pipeline, photo, faces, options.selection.phrases)
    result = anonymizer(photo, options, detections=[face.detection for face in faces])
    changed = np.asarray(result.image)
    after = read_faces(pipeline, changed, faces, options.selection.phrases)
    size, readings = pipeline.crop_size, []
    # faces that only the re-scan detected come last in the records and have no reading
    for face, old, new, record in zip(faces, before, after, result.faces, strict=False):
        crops = extract(photo, face.matrix, size), extract(changed, face.matrix, size)
        readings.append(ReadFace(record.action, crops, old, new if record.action == "replaced" else None))
    return readings


def table(before: AttributeReading, after: AttributeReading | None) -> list[str]:
    """Format readings as text: attribute, best word and score, before and after; `after` is None if not replaced."""
    lines = [f"{'attribute':<14}{'before':<26}{'after' if after else ''}".rstrip()]
    for name in before.scores:
        cells = [
            f"{word} {score:.2f}" for word, score in (reading.best(name) for reading in (before, after) if reading)
        ]
        lines.append(f"{name:<14}{cells[0]:<26}{cells[1] if after else ''}".rstrip())
    return lines


def draw_readings(faces: Sequence[ReadFace]) -> np.ndarray:
    """Draw crops and best words of one or more faces before and after, one row per face: (h, w, 3) uint8 RGB."""
    height = max(_FACE_SIDE, _LINE_HEIGHT * max(len(face.before.scores) for face in faces))
    sheet = Image.new("RGB", (4 * _FACE_SIDE, len(faces) * height), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_LINE_HEIGHT * 0.6)
    for row, face in enumerate(faces):
        for column, (crop, reading) in enumerate(zip(face.crops, (face.before, face.after), strict=True)):
            left, top = 2 * column * _FACE_SIDE, row * height
            thumbnail = Image.fromarray(crop).resize((_FACE_SIDE, _FACE_SIDE), Image.Resampling.LANCZOS)
            sheet.paste(thumbnail, (left, top))
            best = [] if reading is None else [(name, *reading.best(name)) for name in reading.scores]
            for line, (name, word, score) in enumerate(best):
                x, y = left + _FACE_SIDE, top + line * _LINE_HEIGHT
                draw.rectangle((x, y + 2, x + score * (_FACE_SIDE - 8), y + _LINE_HEIGHT - 2), fill=_BAR)
                draw.text(
                    (x + 4, y + _LINE_HEIGHT / 2), f"{name}: {word} {score:.2f}", fill=_INK, font=font, anchor="lm"
                )
    return np.array(sheet)


def draw_inspection(pixels: np.ndarray, faces: Sequence[FaceAnalysis]) -> np.ndarray:
    """Draw three panels of a photo, (H, W, 3) uint8 RGB: boxes and meshes, semantic maps, masks: (h, w, 3) likewise."""
    return side_by_side(
        [
            (f"{len(faces)} face{'' if len(faces) == 1 else 's'}", draw_faces(pixels, faces)),
            ("semantic map", draw_maps(pixels, faces)),
            ("mask", draw_masks(pixels, faces)),
        ]
    )


def draw_faces(pixels: np.ndarray, faces: Sequence[FaceAnalysis]) -> np.ndarray:
    """Draw boxes, detectors, scores and mesh points, or five points, on a photo, (H, W, 3) uint8 RGB."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    line = max(1, round(max(pixels.shape[:2]) / 400))
    font = ImageFont.load_default(12 + 2 * line)
    for analysis in faces:
        x0, y0, x1, y1 = analysis.detection.box
        draw.rectangle((x0, y0, x1, y1), outline=_BOX, width=line)
        note = "" if analysis.mesh is not None else ", no mesh"
        label = f"{analysis.detection.detector} {analysis.detection.score:.2f}{note}"
        draw.text((x0, y0 - line), label, fill=_BOX, font=font, anchor="lb", stroke_width=1, stroke_fill=(0, 0, 0))
        points = analysis.detection.points
        radius = float(line)
        if analysis.mesh is not None:
            inverse = cv2.invertAffineTransform(analysis.matrix)
            points = analysis.mesh @ inverse[:, :2].T + inverse[:, 2]
            radius = line / 2
        for x, y in [] if points is None else points.tolist():
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_MESH)
    return np.array(image)


def draw_maps(pixels: np.ndarray, faces: Sequence[FaceAnalysis]) -> np.ndarray:
    """Draw the semantic maps of the faces in place on a darkened photo, (H, W, 3) uint8 RGB."""
    canvas = (pixels // 3).astype(np.uint8)
    for analysis in faces:
        labels = map_in_photo(analysis.semantic_map, analysis.matrix, (pixels.shape[0], pixels.shape[1]))
        canvas = np.where(labels[..., None] > 0, control_image(labels), canvas)
    return canvas


def draw_masks(pixels: np.ndarray, faces: Sequence[FaceAnalysis]) -> np.ndarray:
    """Tint the paste masks on a photo, (H, W, 3) uint8 RGB."""
    canvas = pixels.astype(np.float32)
    for analysis in faces:
        window, weight = analysis.mask.window, 0.6 * analysis.mask.alpha[..., None]
        canvas[window] = canvas[window] * (1 - weight) + weight * np.array(_MASK, np.float32)
    return np.rint(canvas).astype(np.uint8)


def side_by_side(panels: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Draw panels of equal size, caption and (H, W, 3) uint8 RGB, in one row: (h, w, 3) uint8 RGB."""
    height, width = panels[0][1].shape[:2]
    scale = min(1.0, MAX_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    strip = max(16, size[1] // 16)
    row = Image.new("RGB", (len(panels) * (size[0] + _GAP) - _GAP, size[1] + strip), (255, 255, 255))
    draw = ImageDraw.Draw(row)
    font = ImageFont.load_default(strip * 0.6)
    for index, (caption, picture) in enumerate(panels):
        left = index * (size[0] + _GAP)
        panel = Image.fromarray(picture)
        row.paste(panel if panel.size == size else panel.resize(size, Image.Resampling.LANCZOS), (left, strip))
        draw.text((left + size[0] / 2, strip / 2), caption, fill=(32, 32, 32), font=font, anchor="mm")
    return np.array(row)
