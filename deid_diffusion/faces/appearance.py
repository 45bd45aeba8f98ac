"""Appearance: who is painted of all the people with the same attributes, as a face's texture on the mean mesh.

The texture part of active appearance models (Cootes et al., ECCV 1998): a mean face, what it gains from sex, age,
colour of the skin, expression and pose, and the directions in which faces differ beyond that, along which a seed moves
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from .looks import texture_corners
from .measures import FaceMeasures, measure
from .portrait import Portrait
from .semantic_map import mean_mesh
from .skin_colour import SkinColour

STRENGTH = 1.25
"""What a seed's numbers are multiplied by: rarer people look less real (the truncation trick; Brock et al., 2019)."""

SEX = 1
"""Which of the causes of a texture is the sex."""

_GREY = (0.299, 0.587, 0.114)
_COLOUR = 0.5  # share of the colours in which people differ: a rare cheek is blue
_MOST = 1.5  # standard deviations of a number
_NUMBERS = 0x27D4EB2F  # they are drawn from other random numbers than noise and proportions
_SKIN = (60.0, 12.0, 16.0)  # CIE L*a*b* where nothing is known
_MEASURES = {"smile": (-0.1, 0.25), "mouth_open": (0.0, 0.5), "eyes_open": (0.05, 0.4), "yaw": (-0.4, 0.4)}


@dataclass(frozen=True)
class Traits:
    """What a face's texture follows from, beside its mesh and its seed.

    Attributes:
        sex: -1 woman to 1 man.
        age: years.
        skin: colour of the skin; None where it is not known.
    """

    sex: float = 0.0
    age: float = 35.0
    skin: SkinColour | None = None


@cache
def appearance_basis() -> dict[str, np.ndarray]:
    """What `training/fit_appearance.py` found in training faces.

    Returns:
        effects: (C, T, T, 3) float32, what each of the `causes` adds to a texture; directions: (2 K, T, T, 3), what
            each of a seed's K numbers adds to a woman's, then to a man's, who alone have beards. Both in units of a
            texture's own contrast; 0 outside the face.
        colour: (3,) of the mean face, and contrast: (), of its grey, both for values in 0..1.
        inside: (T, T) bool.
    """
    with np.load(Path(__file__).with_name("appearance.npz")) as file:
        return {name: file[name].astype(bool if name == "inside" else np.float32) for name in file.files}


def causes(traits: Traits, found: FaceMeasures) -> np.ndarray:
    """(C,) float32: what explains a texture, each about -1 to 1."""
    smile, gap, lids, yaw = (float(np.clip(getattr(found, name), *most)) for name, most in _MEASURES.items())
    years = (traits.age - 35) / 15
    light, red, yellow = np.subtract(_SKIN if traits.skin is None else traits.skin.middle, _SKIN) / 15
    shown = (smile / 0.1, gap / 0.3, lids / 0.1 - 3, yaw / 0.3, (float(np.clip(found.pitch, 0.45, 0.75)) - 0.6) / 0.1)
    return np.array([1, traits.sex, years, years**2, traits.sex * years, light, red, yellow, *shown], np.float32)


def draw_appearance(traits: Traits, mesh: np.ndarray, seed: int) -> Portrait:
    """A person seen from the front, whose expression is a mesh's.

    Args:
        traits: what the texture follows from.
        mesh: (478, 2), in any pixels.
        seed: who it is; nothing else tells that.
    """
    basis = appearance_basis()
    count = len(basis["directions"]) // 2
    numbers = STRENGTH * np.random.default_rng(seed ^ _NUMBERS).standard_normal(count).clip(-_MOST, _MOST)
    numbers = np.concatenate([numbers * (1 - traits.sex) / 2, numbers * (1 + traits.sex) / 2]).astype(np.float32)
    texture = np.tensordot(causes(traits, measure(mesh)), basis["effects"], 1)
    own = np.tensordot(numbers, basis["directions"], 1)
    light = own @ np.array(_GREY, np.float32)
    texture = texture + light[..., None] + _COLOUR * (own - light[..., None])
    picture, inside = texture * basis["contrast"] + basis["colour"], basis["inside"]
    picture = np.where(inside[..., None], picture, _around(picture, inside))
    return Portrait(np.clip(picture, 0.02, 1).astype(np.float32), texture_mesh(len(inside)))


def texture_mesh(size: int) -> np.ndarray:
    """(478, 2) the mean mesh in the pixels of a square of textures."""
    low, high = texture_corners()
    return ((mean_mesh(1) - low) / (high - low) * (size - 1) + 0.5).astype(np.float32)


def _around(picture: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The colours of the nearest places inside, so that nothing dark shines in at the rim."""
    weight = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), len(inside) / 30)[..., None]
    total = cv2.GaussianBlur(picture * inside[..., None], (0, 0), len(inside) / 30)
    return total / (weight + 1e-3)
