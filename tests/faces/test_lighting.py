import numpy as np
import pytest

from deid_diffusion.attributes.selection import make_selection
from deid_diffusion.faces import lighting

UV = np.random.default_rng(0).random((3000, 2))
COEFFICIENTS = np.array(
    [(-0.9, -1.2, -1.5), (0.3, 0.3, 0.3), (-0.2, -0.1, 0), (-0.1, -0.1, -0.1), (0, 0, 0), (0, 0, 0.1)]
)


def colours(coefficients: np.ndarray = COEFFICIENTS) -> np.ndarray:
    return lighting.from_log(lighting.polynomial(UV) @ coefficients)


def test_fit_recovers_the_light() -> None:
    values = np.array([(0.0, 0.5, 1.0)])
    assert np.allclose(lighting.from_log(lighting.to_log(values)), values, atol=1e-6)
    assert lighting.to_log(values).max() == pytest.approx(0, abs=1e-6)
    light = lighting.fit_light(colours(), UV)
    assert np.abs(lighting.polynomial(UV) @ (light.coefficients - COEFFICIENTS)).max() < 0.05
    assert light.outliers == 0
    with pytest.raises(ValueError, match="expected at least 12 skin pixels, got 3"):
        lighting.fit_light(np.ones((3, 3)), UV[:3])


def test_fit_is_robust_to_hair(rng: np.random.Generator) -> None:
    mixed = colours()
    hair = UV[:, 1] < 0.3
    mixed[hair] = rng.random((int(hair.sum()), 1)) * 0.06
    light = lighting.fit_light(mixed, UV)
    least_squares = np.linalg.lstsq(lighting.polynomial(UV), lighting.to_log(mixed), rcond=None)[0]

    def error(coefficients: np.ndarray) -> float:
        return float(np.abs(lighting.polynomial(UV) @ (coefficients - COEFFICIENTS))[~hair].mean())

    assert error(light.coefficients) < 0.6 * error(least_squares)
    assert light.outliers > 0.2


def test_extrapolation_is_bounded() -> None:
    visible = UV[:, 0] < 0.4
    light = lighting.fit_light(colours()[visible], UV[visible])
    assert light.bounds[0].min() - 1e-6 <= light.at(UV).min() < light.at(UV).max() <= light.bounds[1].max() + 1e-6


def test_highlights_keep_their_hue() -> None:
    bright = np.array([[(3.0, 1.5, 0.75), (0.4, 0.2, 0.1)]])
    bent = lighting.bend_highlights(bright)
    assert bent.max() <= 1
    assert np.allclose(bent[0, 0] / bent[0, 0, 0], (1, 0.5, 0.25))
    assert np.array_equal(bent[0, 1], bright[0, 1])


CONTEXT = np.full((32, 32, 3), 100, np.uint8)
ERASED = np.zeros((32, 32), bool)


@pytest.mark.parametrize(("keep", "gradient"), [(("light",), True), (("skin",), False)])
def test_gradients(keep: tuple[str, ...], gradient: bool) -> None:
    light = lighting.select_light(lighting.fit_light(colours(), UV), CONTEXT, ERASED, make_selection(keep))
    assert (light.contrast > 0.05) == gradient
    assert np.abs(light.tone - lighting.FaceLight(COEFFICIENTS).tone).max() < 0.1


def test_light_follows_the_surroundings() -> None:
    lights = [lighting.fit_light(colours(scale * COEFFICIENTS), UV) for scale in (1, 0.5)]
    first, second = (lighting.select_light(light, CONTEXT, ERASED, make_selection(())) for light in lights)
    assert np.array_equal(first.coefficients, second.coefficients)
    darker = lighting.select_light(None, CONTEXT // 2, ERASED, make_selection(()))
    assert darker.tone.mean() < first.tone.mean()


@pytest.mark.parametrize(("word", "brighter"), [("light from the left", "left"), ("light from the right", "right")])
def test_light_is_changed(word: str, brighter: str) -> None:
    light = lighting.select_light(
        lighting.FaceLight(COEFFICIENTS), CONTEXT, ERASED, make_selection(change={"light": word})
    )
    left, right = light.at(np.array([(0.1, 0.5), (0.9, 0.5)])).mean(1)
    assert (left > right) == (brighter == "left")
