"""Semantic maps by a face parsing network of the user's own, its classes known by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import DeidError, one_line
from ..repositories import Repository, fetch
from .labels import LABEL, REGIONS

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
