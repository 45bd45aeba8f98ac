"""Semantic maps as a controlnet_aux annotator, from face meshes or a face-parsing model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ..errors import DeidError, one_line
from ..pipelines.repositories import Repository, fetch
from .alignment import extract, invert, transform
from .analysis import FaceAnalysis, analyse_face
from .boxes import FaceDetector
from .detection import EnsembleDetector
from .landmarks import FaceMesh, Landmarker
from .semantic_map import LABEL, REGIONS, control_image, draw_semantic_map

if TYPE_CHECKING:
    from typing_extensions import Self


_SYNONYMS: Mapping[str, str] = {
    "bg": "background", "face": "skin", "facial_skin": "skin", "glasses": "eye_g", "eyeglasses": "eye_g",
    "eye_glasses": "eye_g", "inner_mouth": "mouth", "teeth": "mouth", "tongue": "mouth", "upper_lip": "u_lip",
    "lower_lip": "l_lip", "headwear": "hat", "earring": "ear_r", "earrings": "ear_r", "necklace": "neck_l",
    "clothes": "cloth", "clothing": "cloth", "iris": "iris", "pupil": "iris",
}  # fmt: skip
_PARTS: Mapping[str, str] = {"eye": "eye", "eyebrow": "brow", "brow": "brow", "ear": "ear"}
_SIDES: Mapping[str, str] = {"left": "l", "l": "l", "right": "r", "r": "r"}


def label_of(name: str) -> int | None:
    """Return the label of a parsing model's class by the class's name; None for an unknown name.

    >>> label_of("Left eyebrow") == label_of("l_brow") == LABEL["l_brow"]
    True
    """
    words = re.findall(r"[a-z]+", name.lower())
    plain = "_".join(words)
    if plain in LABEL:
        return LABEL[plain]
    if plain in _SYNONYMS:
        return LABEL[_SYNONYMS[plain]]
    sides = [_SIDES[word] for word in words if word in _SIDES]
    parts = [_PARTS[word] for word in words if word in _PARTS]
    if len(words) == 2 and len(sides) == len(parts) == 1:
        return LABEL[f"{sides[0]}_{parts[0]}"]
    return None


class FaceParser:
    """Face-parsing model: semantic segmentation by transformers, with parts of the face as classes.

    Args:
        model: model whose config has the classes' names in ``id2label``.
        processor: image processor of the model.

    Raises:
        DeidError: parts of the face without a class.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model.eval(), processor
        names = {int(index): str(name) for index, name in model.config.id2label.items()}
        labels = {index: label_of(name) for index, name in names.items()}
        known = {label for label in labels.values() if label is not None}
        missing = [region for region, parts in REGIONS.items() if not known & {LABEL[part] for part in parts}]
        if missing:
            raise DeidError(
                f"no class for {', '.join(missing)} among {', '.join(names.values())[:120]}; use a face-parsing model "
                "with classes such as skin, nose, l_eye, r_brow, u_lip"
            )
        self._labels = np.array([labels.get(index) or 0 for index in range(max(names) + 1)], np.uint8)

    @classmethod
    def from_pretrained(cls, source: str) -> FaceParser:
        """Load a folder or a hub repository.

        Raises:
            DeidError: a model that cannot be loaded, or does not parse faces.
        """
        from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

        others = ("config.json", "preprocessor_config.json")
        folder = fetch(Repository(source, "see its model card", weights=("model.safetensors",), others=others))
        try:
            model = AutoModelForSemanticSegmentation.from_pretrained(folder, use_safetensors=True)
            processor = AutoImageProcessor.from_pretrained(folder)
        except Exception as error:  # libraries raise many types for broken files
            raise DeidError(f"{source}: cannot be loaded as a face-parsing model ({one_line(error)[:160]})") from error
        try:
            return cls(model.float(), processor)
        except DeidError as error:
            raise DeidError(f"{source}: {error}") from error

    @torch.no_grad()
    def __call__(self, crop: np.ndarray) -> np.ndarray:
        """Return the (H, W) uint8 labels of a (H, W, 3) uint8 RGB face crop; unknown classes are background."""
        pixels = self.processor(images=crop, return_tensors="pt").pixel_values
        logits = self.model(pixel_values=pixels.to(self.model.device)).logits
        classes = F.interpolate(logits, crop.shape[:2], mode="bilinear", align_corners=False).argmax(1)[0]
        return self._labels[classes.cpu().numpy()]


_CROP = 512  # side, in pixels, of the crops that are analysed and parsed


class SemanticFaceDetector:
    """Annotator that draws the semantic maps of all faces in a picture.

    The result is the control image of this package's ControlNets. The interface is that of ``controlnet_aux``'s
    detectors, which it can replace in a script.

    >>> detector = SemanticFaceDetector.from_pretrained()  # doctest: +SKIP
    >>> control = detector(photo, detect_resolution=512, image_resolution=512)  # doctest: +SKIP

    Args:
        parser: predicts the map of a face crop; None draws it from the mesh, as in the training of the ControlNets.
        detector: face detector; `EnsembleDetector` by default.
        landmarker: mesh model; `FaceMesh` by default.
    """

    def __init__(
        self,
        parser: FaceParser | None = None,
        *,
        detector: FaceDetector | None = None,
        landmarker: Landmarker | None = None,
    ) -> None:
        self.parser = parser
        self.detector = detector or EnsembleDetector()
        self.landmarker = landmarker or FaceMesh()

    @classmethod
    def from_pretrained(cls, source: str = "mesh") -> SemanticFaceDetector:
        """Load a face-parsing model of transformers from a folder or the hub; "mesh" needs no weights.

        Raises:
            DeidError: a model that cannot be loaded, or does not parse faces.
        """
        if source == "mesh":
            return cls()
        return cls(FaceParser.from_pretrained(source))

    def to(self, device: str | torch.device) -> Self:
        """Move the parsing model, if any."""
        if self.parser is not None:
            self.parser.model.to(device)
        return self

    def __call__(
        self,
        input_image: Image.Image | np.ndarray,
        detect_resolution: int = 512,
        image_resolution: int = 512,
        output_type: Literal["pil", "np"] = "pil",
    ) -> Image.Image | np.ndarray:
        """Return the coloured map of a picture, black outside faces.

        Args:
            input_image: PIL image, or (H, W), (H, W, 3) or (H, W, 4) uint8 RGB.
            detect_resolution: shorter side, in pixels, for detection.
            image_resolution: shorter side of the map, in pixels; sides become multiples of 64, as in controlnet_aux.
            output_type: "pil", or "np" for (H', W', 3) uint8 RGB.

        Raises:
            ValueError: an invalid picture, resolution or output type.
            DeidError: a missing package.
        """
        if output_type not in ("pil", "np"):
            raise ValueError(f'output_type: expected "pil" or "np", got {output_type!r}')
        for name, value in (("detect_resolution", detect_resolution), ("image_resolution", image_resolution)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1 pixel, got {value}")
        picture = _rgb(input_image)
        size = _size(picture, image_resolution)
        resized = _resized(picture, _size(picture, detect_resolution))
        scale = np.array(size) / (resized.shape[1], resized.shape[0])
        labels = np.zeros(size[::-1], np.uint8)
        faces = [analyse_face(resized, face, self.landmarker, _CROP) for face in self.detector(resized)]
        for face in sorted(faces, key=_area):  # larger faces are in front
            face_labels = self._face_labels(resized, face, scale, size)
            labels[face_labels > 0] = face_labels[face_labels > 0]
        coloured = control_image(labels)
        return Image.fromarray(coloured) if output_type == "pil" else coloured

    def _face_labels(
        self, picture: np.ndarray, face: FaceAnalysis, scale: np.ndarray, size: tuple[int, int]
    ) -> np.ndarray:
        """Return the (H', W') uint8 labels of a face in the result.

        Args:
            picture: (H, W, 3) uint8, in which the face was detected.
            face: analysis of the face.
            scale: (2,) pixels of the result per pixel of the picture, in x and y.
            size: width and height of the result.
        """
        matrix = (invert(face.matrix) * scale[:, None]).astype(np.float32)  # crop to result
        matrix[:, 2] += (scale - 1) / 2  # pixel centres
        if self.parser is None:
            return draw_semantic_map(transform(face.map_mesh, matrix), max(size))[: size[1], : size[0]]
        parsed = self.parser(extract(picture, face.matrix, _CROP))
        return cv2.warpAffine(parsed, matrix, size, flags=cv2.INTER_NEAREST)


def _rgb(image: Image.Image | np.ndarray) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 RGB; raise ValueError for other data."""
    if isinstance(image, np.ndarray):
        supported = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not supported or not image.size:
            raise ValueError(f"input_image: expected (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise ValueError(f"input_image: expected a PIL image or an array, got {type(image).__name__}")
    return np.asarray(image.convert("RGB"))


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = size[0] < picture.shape[1]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _size(picture: np.ndarray, resolution: int) -> tuple[int, int]:
    """Return width and height, multiples of 64, with about the resolution as the shorter side."""
    height, width = picture.shape[:2]
    scale = resolution / min(height, width)
    return max(1, round(width * scale / 64)) * 64, max(1, round(height * scale / 64)) * 64


def _area(face: FaceAnalysis) -> float:
    x0, y0, x1, y1 = face.detection.box
    return (x1 - x0) * (y1 - y0)
