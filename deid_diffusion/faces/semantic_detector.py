"""Our semantic map for scripts that know the annotators of controlnet_aux."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from PIL import Image

from .analysis import FaceAnalysis, analyse_face
from .crop import extract, invert, transform
from .detected_face import FaceDetector
from .detection import UnionDetector
from .landmarks import FaceMesh, Landmarker
from .semantic_map import control_image, draw_semantic_map

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

    from .parsing import FaceParser

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
        self.detector = detector or UnionDetector()
        self.landmarker = landmarker or FaceMesh()

    @classmethod
    def from_pretrained(cls, source: str = "mesh") -> SemanticFaceDetector:
        """The source "mesh" needs no weights; else a semantic segmentation model of transformers, folder or hub id.

        Raises:
            DeidError: when there is no such model, or its classes are no parts of faces.
        """
        if source == "mesh":
            return cls()
        from .parsing import FaceParser

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
            return draw_semantic_map(transform(face.drawn, back), max(size))[: size[1], : size[0]]
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
    x0, y0, x1, y1 = face.face.box
    return (x1 - x0) * (y1 - y0)
