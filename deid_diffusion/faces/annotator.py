"""Our semantic map for scripts that know the annotators of controlnet_aux."""

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


_OTHER_NAMES: Mapping[str, str] = {
    "bg": "background", "face": "skin", "facial_skin": "skin", "glasses": "eye_g", "eyeglasses": "eye_g",
    "eye_glasses": "eye_g", "inner_mouth": "mouth", "teeth": "mouth", "tongue": "mouth", "upper_lip": "u_lip",
    "lower_lip": "l_lip", "headwear": "hat", "earring": "ear_r", "earrings": "ear_r", "necklace": "neck_l",
    "clothes": "cloth", "clothing": "cloth", "iris": "iris", "pupil": "iris",
}  # fmt: skip
_PARTS: Mapping[str, str] = {"eye": "eye", "eyebrow": "brow", "brow": "brow", "ear": "ear"}
_SIDES: Mapping[str, str] = {"left": "l", "l": "l", "right": "r", "r": "r"}


def label_of(name: str) -> int | None:
    """Our label of a class, by the name that its model has for it; None for a name that is not known.

    >>> label_of("Left eyebrow") == label_of("l_brow") == LABEL["l_brow"]
    True
    """
    words = re.findall(r"[a-z]+", name.lower())
    plain = "_".join(words)
    if plain in LABEL:
        return LABEL[plain]
    if plain in _OTHER_NAMES:
        return LABEL[_OTHER_NAMES[plain]]
    sides = [_SIDES[word] for word in words if word in _SIDES]
    parts = [_PARTS[word] for word in words if word in _PARTS]
    if len(words) == 2 and len(sides) == len(parts) == 1:
        return LABEL[f"{sides[0]}_{parts[0]}"]
    return None


class FaceParser:
    """A semantic segmentation model of transformers that knows the parts of a face.

    Args:
        model: with an ``id2label`` that names its classes.
        processor: its image processor.

    Raises:
        DeidError: when the classes' names do not tell of all parts of a face.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model.eval(), processor
        names = {int(index): str(name) for index, name in model.config.id2label.items()}
        labels = {index: label_of(name) for index, name in names.items()}
        known = {label for label in labels.values() if label is not None}
        lacking = [region for region, parts in REGIONS.items() if not known & {LABEL[part] for part in parts}]
        if lacking:
            raise DeidError(
                f"its classes ({', '.join(names.values())[:120]}) do not name {', '.join(lacking)}: expected a face "
                "parsing model with names such as skin, nose, l_eye, r_brow, u_lip"
            )
        self._table = np.array([labels.get(k) or 0 for k in range(max(names) + 1)], np.uint8)

    @classmethod
    def from_pretrained(cls, source: str) -> FaceParser:
        """Load a folder or a repository of the hub.

        Raises:
            DeidError: when it cannot be loaded, or parses no faces.
        """
        from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

        others = ("config.json", "preprocessor_config.json")
        folder = fetch(Repository(source, "see its model card", weights=("model.safetensors",), others=others))
        try:
            model = AutoModelForSemanticSegmentation.from_pretrained(folder, use_safetensors=True)
            processor = AutoImageProcessor.from_pretrained(folder)
        except Exception as error:  # missing or broken files: each library has errors of its own
            raise DeidError(f"{source}: no parsing model can be loaded from it ({one_line(error)[:160]})") from error
        try:
            return cls(model.float(), processor)
        except DeidError as error:
            raise DeidError(f"{source}: {error}") from error

    @torch.no_grad()
    def __call__(self, crop: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB crop with one face -> (H, W) uint8 labels; classes that are not known are background."""
        pixels = self.processor(images=crop, return_tensors="pt").pixel_values
        logits = self.model(pixel_values=pixels.to(self.model.device)).logits
        classes = F.interpolate(logits, crop.shape[:2], mode="bilinear", align_corners=False).argmax(1)[0]
        return self._table[classes.cpu().numpy()]


_CROP = 512  # pixels; what is measured, and shown to a parsing network


class SemanticFaceDetector:
    """Draws the semantic maps of all faces of a picture: the control image of our ControlNets.

    It is called like ``controlnet_aux``'s detectors, and takes the place of one in a script.

    >>> detector = SemanticFaceDetector.from_pretrained()  # doctest: +SKIP
    >>> control = detector(photo, detect_resolution=512, image_resolution=512)  # doctest: +SKIP

    Args:
        parser: reads the map off a face crop; None draws it from the face mesh, as for the training of our ControlNets.
        detector: finds the faces.
        landmarker: finds their meshes.
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
        """The source "mesh" needs no weights; else a semantic segmentation model of transformers, folder or hub id.

        Raises:
            DeidError: when there is no such model, or its classes are no parts of faces.
        """
        if source == "mesh":
            return cls()

        return cls(FaceParser.from_pretrained(source))

    def to(self, device: str | torch.device) -> Self:
        """Move the parsing network, if there is one."""
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
        """The coloured map of a picture, black where no face is.

        Args:
            input_image: PIL, or (H, W), (H, W, 3) or (H, W, 4) uint8 RGB.
            detect_resolution: shorter side, in pixels, at which faces are sought.
            image_resolution: shorter side of the map; both sides become multiples of 64, as in controlnet_aux.
            output_type: "pil", or "np" for (H', W', 3) uint8 RGB.

        Raises:
            ValueError: for another picture, resolution or output type.
            DeidError: when a package is missing.
        """
        if output_type not in ("pil", "np"):
            raise ValueError(f'output_type: expected "pil" or "np", got {output_type!r}')
        for name, value in (("detect_resolution", detect_resolution), ("image_resolution", image_resolution)):
            if value < 1:
                raise ValueError(f"{name}: expected pixels, 1 or more, got {value}")
        picture = _rgb(input_image)
        size = _size(picture, image_resolution)
        seen = _resized(picture, _size(picture, detect_resolution))
        scale = np.array(size) / (seen.shape[1], seen.shape[0])
        labels = np.zeros(size[::-1], np.uint8)
        found = [analyse_face(seen, face, self.landmarker, _CROP) for face in self.detector(seen)]
        for face in sorted(found, key=_area):  # what is larger stands in front
            drawn = self._labels(seen, face, scale, size)
            labels[drawn > 0] = drawn[drawn > 0]
        coloured = control_image(labels)
        return Image.fromarray(coloured) if output_type == "pil" else coloured

    def _labels(self, seen: np.ndarray, face: FaceAnalysis, scale: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """(H', W') uint8 labels of one face in the result.

        Args:
            seen: (H, W, 3) uint8, the picture that the face was found in.
            face: its analysis.
            scale: (2,) pixels of the result per pixel of that picture, across and down.
            size: width and height of the result.
        """
        back = invert(face.matrix)  # crop to picture, then to the result; pixels' centres lie at half numbers
        back = (back * scale[:, None]).astype(np.float32)
        back[:, 2] += (scale - 1) / 2
        if self.parser is None:
            return draw_semantic_map(transform(face.map_mesh, back), max(size))[: size[1], : size[0]]
        parsed = self.parser(extract(seen, face.matrix, _CROP))
        return cv2.warpAffine(parsed, back, size, flags=cv2.INTER_NEAREST)


def _rgb(image: Image.Image | np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    if isinstance(image, np.ndarray):
        pixels = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not pixels or not image.size:
            raise ValueError(f"input_image: expected (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise ValueError(f"input_image: expected a PIL image or an array, got {type(image).__name__}")
    return np.asarray(image.convert("RGB"))


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = size[0] < picture.shape[1]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _size(picture: np.ndarray, resolution: int) -> tuple[int, int]:
    """Width and height whose shorter side is the resolution, each rounded to a multiple of 64."""
    height, width = picture.shape[:2]
    scale = resolution / min(height, width)
    return max(1, round(width * scale / 64)) * 64, max(1, round(height * scale / 64)) * 64


def _area(face: FaceAnalysis) -> float:
    x0, y0, x1, y1 = face.detection.box
    return (x1 - x0) * (y1 - y0)
