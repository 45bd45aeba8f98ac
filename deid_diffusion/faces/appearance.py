"""Appearance: who is painted of all the people with the same attributes, as a face's texture on the mean mesh.

The texture part of active appearance models (Cootes et al., ECCV 1998): a mean face, what it gains from sex, age,
colour of the skin, expression and pose, and the directions in which faces differ beyond that, along which a seed moves
it. Textures are logarithms of values over those around them, as in Retinex (Land & McCann, 1971): what light does to a
training face is no feature.
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

STRENGTH = 1.7
"""What a seed's numbers are multiplied by: the rarer people are, the less they are taken for one another, and the less
real they look (the truncation trick; Brock et al., 2019)."""

SEX = 1
"""Which of the causes of a texture is the sex."""

_GREY = np.array((0.299, 0.587, 0.114), np.float32)
_BOUND = 0.6  # most, about, that a person's own features lighten or darken
_STAYS, _FREE = 0.5, 0.15  # share of a brow's, an eye's or a mouth's darkness that nobody lacks, beyond so much of it
_COLOUR = 0.3  # share of the colours in which people differ: a rare cheek is blue
_MOST = 1.5  # standard deviations of a number
_NUMBERS = 0x27D4EB2F  # they are drawn from other random numbers than noise and proportions
_SKIN = (60.0, 12.0, 16.0)  # CIE L*a*b* where nothing is known
_COLOURLESS = 4.0  # |a*| + |b*| under which a photo tells of the light only
_MIDDLE = 0.4  # value of what is as light as what surrounds it
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
            each of a seed's K numbers adds to a woman's, then to a man's, who alone have beards. Both natural
            logarithms; 0 outside the face.
        least: (C,), and most, (C,): the causes that training faces show; beyond them nothing is known.
        inside: (T, T) bool.
    """
    with np.load(Path(__file__).with_name("appearance.npz")) as file:
        return {name: file[name].astype(bool if name == "inside" else np.float32) for name in file.files}


def causes(traits: Traits, found: FaceMeasures) -> np.ndarray:
    """(C,) float32: what explains a texture, each about -1 to 1."""
    smile, gap, lids, yaw = (float(np.clip(getattr(found, name), *most)) for name, most in _MEASURES.items())
    years = (traits.age - 35) / 15
    skin = np.array(_SKIN if traits.skin is None else traits.skin.middle)
    if np.abs(skin[1:]).sum() < _COLOURLESS:
        skin[1:] = _SKIN[1:]
    light, red, yellow = (skin - _SKIN) / 15
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
    known = causes(traits, measure(mesh)).clip(basis["least"], basis["most"])
    usual, own = np.tensordot(known, basis["effects"], 1), np.tensordot(numbers, basis["directions"], 1)
    (light, hues), (own_light, own_hues) = _parted(usual), _parted(own)
    texture = light + _plausible(own_light, light) + hues + _COLOUR * own_hues
    picture, inside = _MIDDLE * np.exp(texture), basis["inside"]
    picture = np.where(inside[..., None], picture, _around(picture, inside))
    return Portrait(np.clip(picture, 0.02, 1).astype(np.float32), texture_mesh(len(inside)))


def _parted(texture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Light and dark, (T, T, 1), and what colours add to them, (T, T, 3)."""
    light = (texture @ _GREY)[..., None]
    return light, texture - light


def _plausible(own: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """A person's own light and dark within what faces have; sums of many directions go beyond it.

    Nobody is without brows and lashes, and hardly anybody's meet.

    Args:
        own: what a seed's numbers add.
        usual: the texture's without them, of the same shape.
    """
    return np.minimum(_BOUND * np.tanh(own / _BOUND), (_STAYS - 1) * usual.clip(max=0) + _FREE)


def texture_mesh(size: int) -> np.ndarray:
    """(478, 2) the mean mesh in the pixels of a square of textures."""
    low, high = texture_corners()
    return ((mean_mesh(1) - low) / (high - low) * (size - 1) + 0.5).astype(np.float32)


def _around(picture: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The colours of the nearest places inside, so that nothing dark shines in at the rim."""
    weight = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), len(inside) / 30)[..., None]
    total = cv2.GaussianBlur(picture * inside[..., None], (0, 0), len(inside) / 30)
    return total / (weight + 1e-3)
