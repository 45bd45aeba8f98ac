from __future__ import annotations

import doctest

import pytest

from deid_diffusion.errors import DeidError
from deid_diffusion.pipelines import presets
from deid_diffusion.pipelines.presets import INPAINTING, PRESETS, find_preset


def test_the_examples_hold() -> None:
    assert doctest.testmod(presets).failed == 0


@pytest.mark.parametrize("name", ["builtin", "me/sd15", "sd15/x", "", "./sd15", "other=sd15"])
def test_other_names_are_no_presets(name: str) -> None:
    assert find_preset(name) is None


def test_every_repository_is_pinned_and_names_its_licence() -> None:
    named = [one for preset in PRESETS.values() for one in preset.repositories if one.name]
    assert all(len(one.revision or "") == 40 and one.licence for one in named)
    assert all(name.endswith(".safetensors") for one in named for name in one.weights)


def test_a_base_of_ones_own_keeps_the_rest() -> None:
    preset = find_preset("sd15=me/inpainting")
    assert preset is not None
    assert (preset.base.name, preset.base.revision) == ("me/inpainting", None)
    assert preset.base.weights == INPAINTING.weights
    assert preset.controlnet is presets.FACE_LINES


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("sd15-semantic", "say whose: --model sd15-semantic=FOLDER"),
        ("sd15-semantic=", "say whose"),
        ("sd15=", "nothing after ="),
    ],
)
def test_what_is_missing_is_said(model: str, words: str) -> None:
    with pytest.raises(DeidError, match=words):
        find_preset(model)
