"""The page's HTML: nothing that a user writes becomes markup, and no picture comes from elsewhere."""

import base64
import io

import numpy as np
from PIL import Image

from deid_diffusion.web import pictures
from tests.fake_anonymizer import analysis


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))


def test_small_copies():
    assert opened(pictures.data_uri(np.zeros((30, 40, 3), np.uint8))).size == (40, 30)
    assert opened(pictures.data_uri(np.zeros((100, 3200, 3), np.uint8))).size == (1600, 50)


def test_maps_and_masks():
    for shape, size in (((60, 80), (80, 120)), ((80, 60), (120, 80))):
        photo = np.full((*shape, 3), 90, np.uint8)
        assert opened(pictures.overlay(photo, [analysis(photo)])).size == size


def test_names_are_no_markup():
    bad = '<img src=x onerror="alert(1)">.png'
    for made in (pictures.status([bad]), pictures.links("token", [bad, "b.png"], 0)):
        assert "<img" not in made
        assert "&lt;img" in made
    assert "all.zip" in pictures.links("token", [bad, "b.png"], 0)
    assert "all.zip" not in pictures.links("token", ["b.png"], 0)
