"""Captions for face crops: what is known of a face and what is measured on it, phrased by a few templates."""

from __future__ import annotations

import re
from collections.abc import Mapping

import cv2
import numpy as np

from ..faces.labels import LABEL
from ..faces.measures import measure
from ..faces.semantic_map import draw_semantic_map

_CHILD = re.compile(r"toddler|child|baby|infant|kid\b|little (girl|boy)|(?<!\d)(\d{1,2}(\.\d)?) ?-?year")
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
    """What can be said of one face: person, age, skin, expression, eyes, pose, picture, text, each a phrase."""
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
    said["person"] = noun[1] if male > 0.7 else noun[0] if male < 0.3 else "person"
    if age:
        words = ((3, "toddler"), (13, "child"), (20, "teenager"), (35, "young"), (55, "middle-aged"), (200, "elderly"))
        said["age"] = f"{next(word for limit, word in words if age < limit)}, about {5 * round(age / 5)} years old"
    if not row.get("grey"):
        said["skin"] = f"{skin_tone(crop, draw_semantic_map(mesh, len(crop)))} skin"
    found = measure(mesh)
    mouth = "mouth open" if found.mouth_open > 0.3 else "teeth showing" if found.mouth_open > 0.1 else "mouth closed"
    said["expression"] = (
        f"{'smiling' if found.smile > 0.1 else 'serious' if found.smile < 0.04 else 'neutral'}, {mouth}"
    )
    if found.eyes_open < 0.16:
        said["eyes"] = "eyes closed"
    turn = "left" if found.yaw < 0 else "right"
    said["pose"] = f"looking {turn}" if abs(found.yaw) > 0.35 else "facing the camera"
    said["picture"] = "black and white photo" if row.get("grey") else "colour photo"
    if text and not written:
        said["text"] = text.split(";")[0].strip()
    return said


def caption(said: Mapping[str, str], rng: np.random.Generator, keep: float = 0.75) -> str:
    """One sentence from a face's facts: each is kept with probability ``keep``, in random order."""
    kept = [said[name] for name in said if name not in ("person", "picture") and rng.random() < keep]
    rng.shuffle(kept)
    opening = said.get("picture", "photo") if rng.random() < keep else "photo"
    return ", ".join([f"{opening} of a {said.get('person', 'person')}", *kept])
