"""What training faces' textures follow from is found again."""

import numpy as np
import pytest
import torch

from deid_diffusion.faces.appearance import SEX, Traits, appearance_basis, causes
from deid_diffusion.faces.measures import measure
from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.training.appearance import _turned_to, fit_appearance

SIZE = 48
CHEEK, CHIN = 50, 152


def people(count: int) -> tuple[np.ndarray, np.ndarray, list[dict[str, object]]]:
    """Men have dark cheeks; and some, nobody knows why, a dark chin."""
    rng, meshes = np.random.default_rng(0), np.stack([mean_mesh(SIZE)] * count)
    crops = np.full((count, SIZE, SIZE, 3), (190, 150, 130), float) + rng.normal(0, 4, (count, SIZE, SIZE, 3))
    rows: list[dict[str, object]] = []
    for k, (crop, mesh) in enumerate(zip(crops, meshes, strict=True)):
        male = k % 2
        for point, dark in ((CHEEK, 40 * male), (CHIN, 40 * male * rng.random())):
            x, y = mesh[point].round().astype(int)
            crop[y - 3 : y + 3, x - 3 : x + 3] -= dark
        rows.append({"grey": k % 10 == 9, "predicted_male": str(float(male)), "predicted_age": "35"})
    return crops.clip(0, 255).astype(np.uint8), meshes, rows


@pytest.fixture(scope="module")
def fitted() -> dict[str, np.ndarray]:
    return fit_appearance(*people(80))


def at(squares: np.ndarray, point: int) -> np.ndarray:
    """Values at a point of the mesh, the mean over channels."""
    low, high = mean_mesh(1)[:468].min(0), mean_mesh(1)[:468].max(0)
    x, y = ((mean_mesh(1)[point] - low) / (high - low) * (squares.shape[1] - 1)).round().astype(int)
    return squares[:, max(0, y - 4) : y + 1, x - 2 : x + 3].astype(float).mean((1, 2, 3))


def test_it_has_the_shapes_of_the_package_s_own(fitted: dict[str, np.ndarray]) -> None:
    own = appearance_basis()
    assert {name: one.shape for name, one in fitted.items()} == {name: one.shape for name, one in own.items()}
    assert len(own["effects"]) == len(causes(Traits(), measure(mean_mesh(1))))


def test_what_sex_explains_is_an_effect_and_the_rest_is_men_s_alone(fitted: dict[str, np.ndarray]) -> None:
    assert at(fitted["effects"], CHEEK)[SEX] < -0.1  # half of ln(110 / 150), less what counts as light
    women, men = np.split(np.square(at(fitted["directions"], CHIN)), 2)
    assert men.sum() > 4 * women.sum()


def test_directions_are_turned_towards_others_and_lose_nothing() -> None:
    torch.manual_seed(0)
    one = torch.randn(5, 30)
    turn = torch.linalg.qr(torch.randn(5, 5))[0]
    assert torch.allclose(_turned_to(one, turn @ one), one, atol=1e-4)
    other = torch.randn(5, 30)
    turned = _turned_to(one, other)
    assert torch.allclose(turned.T @ turned, other.T @ other, atol=1e-3)
    assert (turned - one).norm() < (other - one).norm()


def test_light_from_the_side_is_hardly_a_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    crops, meshes, rows = people(80)
    slope = np.where(np.arange(80) % 3, 0.0, 0.4)[:, None, None, None] * np.linspace(-1, 1, SIZE)[:, None]
    lit = (crops * (1 + slope)).clip(0, 255).astype(np.uint8)

    def added() -> float:
        before, after = (fit_appearance(one, meshes, rows)["directions"].astype(float) for one in (crops, lit))
        return float(np.square(after).sum() - np.square(before).sum())

    divided = added()
    monkeypatch.setattr("deid_diffusion.training.appearance._LIGHT", 3.0)  # all around: nothing is divided out
    assert divided < 0.4 * added()
