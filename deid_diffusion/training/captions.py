"""Captions for face crops: what is known of a face and what is measured on it, phrased by a few templates."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping

import cv2
import numpy as np
import torch

from ..faces.labels import LABEL
from ..faces.measures import measure
from ..faces.semantic_map import draw_semantic_map
from .glasses import glasses_word

_CHILD = re.compile(r"toddler|child|baby|infant|kid\b|little (girl|boy)|(?<!\d)(\d{1,2}(\.\d)?) ?-?year")
#: What can be known of a face.
FACTS = ("person", "age", "years", "skin", "expression", "mouth", "eyes", "glasses", "pose", "picture", "text")
#: Facts that speak of one attribute.
ATTRIBUTES = (
    ("person",), ("age", "years"), ("skin",), ("expression", "mouth"), ("eyes",), ("glasses",), ("pose",), ("picture",),
)  # fmt: skip
#: Individual typology angle in degrees (Chardon et al., 1991) -> word, lightest first.
_SKIN = ((55, "very light"), (41, "light"), (28, "medium"), (10, "tan"), (-30, "brown"))


def skin_tone(crop: np.ndarray, labels: np.ndarray) -> str:
    """A word for the skin's lightness, by the individual typology angle of its median colour.

    Args:
        crop: (S, S, 3) uint8 RGB.
        labels: (S, S) semantic map.
    """
    lab = cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[labels == LABEL["skin"]]
    if not len(lab):
        return "medium"
    lightness, _, yellow = np.median(lab, axis=0)
    angle = float(np.degrees(np.arctan2(lightness - 50, max(float(yellow), 1e-3))))
    return next((word for limit, word in _SKIN if angle > limit), "dark")


def facts(row: Mapping[str, str], crop: np.ndarray, mesh: np.ndarray) -> dict[str, str]:
    """What can be said of one face: a phrase for each of ``FACTS`` that is known."""
    said: dict[str, str] = {}
    text = row.get("text", "").lower()
    male = float(row.get("predicted_male") or 0.5)
    age = float(row.get("predicted_age") or 0)
    written = re.search(r"(?<![\d.])(\d{1,2}(?:\.\d)?)[ -]year", text)
    if written:
        age = float(written[1])
    elif _CHILD.search(text):
        age = 6
    noun = ("woman", "man") if age >= 16 or not age else ("girl", "boy")
    if not 0.3 <= male <= 0.7:
        said["person"] = noun[1] if male > 0.5 else noun[0]
    if age:
        words = ((3, "toddler"), (13, "child"), (20, "teenager"), (35, "young"), (55, "middle-aged"), (200, "elderly"))
        said["age"] = next(word for limit, word in words if age < limit)
        said["years"] = f"about {5 * round(age / 5)} years old"
    if not row.get("grey"):
        said["skin"] = f"{skin_tone(crop, draw_semantic_map(mesh, len(crop)))} skin"
    found = measure(mesh)
    mouth = "mouth open" if found.mouth_open > 0.3 else "teeth showing" if found.mouth_open > 0.1 else "mouth closed"
    said["expression"] = "smiling" if found.smile > 0.1 else "serious" if found.smile < 0.04 else "neutral"
    said["mouth"] = mouth
    if found.eyes_open < 0.16:
        said["eyes"] = "eyes closed"
    if glasses := glasses_word(row):
        said["glasses"] = glasses
    turn = "left" if found.yaw < 0 else "right"
    said["pose"] = f"looking {turn}" if abs(found.yaw) > 0.35 else "facing the camera"
    said["picture"] = "black and white photo" if row.get("grey") else "colour photo"
    if text and not written:
        said["text"] = text.split(";")[0].strip()
    return said


def greyed(said: Mapping[str, str]) -> dict[str, str]:
    """The facts of the same face in a picture without colour."""
    return {name: phrase for name, phrase in said.items() if name != "skin"} | {"picture": "black and white photo"}


def choose(said: Mapping[str, str], rng: np.random.Generator, keep: float = 0.75) -> dict[str, str]:
    """Some of a face's facts, each with probability ``keep``, in random order."""
    names = [name for name in said if rng.random() < keep]
    rng.shuffle(names)
    return {name: said[name] for name in names}


def phrase(said: Mapping[str, str]) -> str:
    """One sentence that says just these facts, in this order."""
    opening = f"{said.get('picture', 'photo')} of a {said.get('person', 'person')}"
    return ", ".join([opening, *(text for name, text in said.items() if name not in ("person", "picture"))])


def agree(facts: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
    """Which captions are true of which faces: (B, C) bool.

    Args:
        facts: (B, F) int64 codes of what is known of each face.
        captions: (C, F) codes of what each caption says, 0 where it says nothing.
    """
    return ((facts[:, None] == captions[None]) | (captions[None] == 0)).all(-1)


def codes(said: Mapping[str, str]) -> torch.Tensor:
    """(F,) int64, a checksum of the phrase for each of ``FACTS``, 0 where there is none."""
    return torch.tensor([zlib.crc32(said[name].encode()) if name in said else 0 for name in FACTS])
