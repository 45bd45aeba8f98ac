import numpy as np
import pytest

from deid_diffusion.attributes.selection import make_selection
from deid_diffusion.faces.lighting import (
    FaceLight,
    bend_highlights,
    fit_light,
    from_log,
    polynomial,
    select_light,
    to_log,
)

RNG = np.random.default_rng(0)
UV = RNG.random((3000, 2))
PLANTED = np.array([(-0.9, -1.2, -1.5), (0.3, 0.3, 0.3), (-0.2, -0.1, 0), (-0.1, -0.1, -0.1), (0, 0, 0), (0, 0, 0.1)])


def colours(coefficients: np.ndarray = PLANTED) -> np.ndarray:
    return from_log(polynomial(UV) @ coefficients)


def test_logarithm_and_its_inverse() -> None:
    values = np.array([(0.0, 0.5, 1.0)])
    assert np.allclose(from_log(to_log(values)), values, atol=1e-6)
    assert to_log(np.ones((1, 3))).max() == pytest.approx(0, abs=1e-6)


def test_planted_light_is_found() -> None:
    light = fit_light(colours(), UV)
    assert np.abs(polynomial(UV) @ (light.coefficients - PLANTED)).max() < 0.05
    assert light.outliers == 0


def test_a_third_of_hair_changes_the_fit_little() -> None:
    hairy = colours()
    hair = UV[:, 1] < 0.3
    hairy[hair] = RNG.random((int(hair.sum()), 1)) * 0.06
    light = fit_light(hairy, UV)
    skin = ~hair
    plain = np.linalg.lstsq(polynomial(UV), to_log(hairy), rcond=None)[0]
    robust, straight = (np.abs(polynomial(UV) @ (c - PLANTED))[skin].mean() for c in (light.coefficients, plain))
    assert robust < 0.6 * straight
    assert light.outliers > 0.2


def test_light_stays_within_what_skin_showed() -> None:
    seen = UV[:, 0] < 0.4
    light = fit_light(colours()[seen], UV[seen])
    assert light.at(UV).max() <= light.bounds[1].max() + 1e-6
    assert light.at(UV).min() >= light.bounds[0].min() - 1e-6


def test_too_little_skin_is_an_error() -> None:
    with pytest.raises(ValueError, match="12 pixels of skin or more, got 3"):
        fit_light(np.ones((3, 3)), UV[:3])


def test_highlights_bend_and_keep_their_hue() -> None:
    bright = np.array([[(3.0, 1.5, 0.75), (0.4, 0.2, 0.1)]])
    bent = bend_highlights(bright)
    assert bent.max() <= 1
    assert np.allclose(bent[0, 0] / bent[0, 0, 0], (1, 0.5, 0.25))
    assert np.array_equal(bent[0, 1], bright[0, 1])


CONTEXT = np.full((32, 32, 3), 100, np.uint8)
ERASED = np.zeros((32, 32), bool)


@pytest.mark.parametrize(("keep", "gradient"), [(("light",), True), (("skin",), False)])
def test_gradients_are_kept_with_light_alone(keep: tuple[str, ...], gradient: bool) -> None:
    light = select_light(fit_light(colours(), UV), CONTEXT, ERASED, make_selection(keep))
    assert (light.contrast > 0.05) == gradient
    assert np.abs(light.tone - FaceLight(PLANTED).tone).max() < 0.1


def test_unkept_light_follows_from_the_surroundings() -> None:
    one, other = (
        select_light(fit_light(colours(c), UV), CONTEXT, ERASED, make_selection(())) for c in (PLANTED, PLANTED * 0.5)
    )
    assert np.array_equal(one.coefficients, other.coefficients)
    darker = select_light(None, CONTEXT // 2, ERASED, make_selection(()))
    assert darker.tone.mean() < one.tone.mean()


@pytest.mark.parametrize(("word", "brighter"), [("light from the left", "left"), ("light from the right", "right")])
def test_light_changes_to_a_word(word: str, brighter: str) -> None:
    light = select_light(FaceLight(PLANTED), CONTEXT, ERASED, make_selection(change={"light": word}))
    left, right = light.at(np.array([(0.1, 0.5), (0.9, 0.5)])).mean(1)
    assert (left > right) == (brighter == "left")
