"""Detector and recogniser that read colours, and photos for them: people differ by colour, without a network."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.faces import detection, landmarks
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.identity import recognition

PEOPLE = {"ada": (200, 90, 80), "bob": (80, 210, 110), "eve": (110, 80, 220)}
TWO_EACH = {f"{name}_{k}.png": colour for name, colour in PEOPLE.items() for k in (0, 1)}
OTHERS = {name: PEOPLE[{"ada": "bob", "bob": "eve", "eve": "ada"}[name[:3]]] for name in TWO_EACH}
_BOX = (10, 10, 30, 32)
_POINTS = np.array([(14, 18), (26, 18), (20, 22), (15, 28), (25, 28)], np.float32)
_MIDDLE = (22, 20)  # row and column that the recogniser reads


class OneFace:
    """Detects one face in every photo that is not black."""

    def __call__(self, image):
        return [Detection(_BOX, 0.9, "fake", _POINTS)] if image.any() else []


class Colour:
    name, threshold = "colour", 0.99

    def __call__(self, photo, points):
        vector = photo[_MIDDLE].astype(np.float32) - 100
        return vector / np.linalg.norm(vector)


def patch_evaluators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the networks that commands load."""
    monkeypatch.setattr(detection, "EnsembleDetector", OneFace)
    monkeypatch.setattr(landmarks, "FaceMesh", lambda: lambda crop: None)
    monkeypatch.setattr(recognition, "DlibRecogniser", Colour)


def write_photos(folder: str | Path, colours: Mapping[str, tuple[int, int, int]]) -> None:
    """Write a new folder of photos, name to colour; the pattern in the face depends on the colour."""
    Path(folder).mkdir()
    x0, y0, x1, y1 = _BOX
    for name, colour in colours.items():
        picture = np.full((44, 40, 3), colour, np.uint8)
        if min(colour) > 40:
            pattern = np.random.default_rng(sum(colour)).integers(0, 40, (y1 - y0, x1 - x0, 1), np.uint8)
            picture[y0:y1, x0:x1] -= pattern
            picture[_MIDDLE] = colour
        Image.fromarray(picture).save(Path(folder) / name)
