"""Who is painted: textures that follow from traits, a mesh and a seed alone."""

import numpy as np
import pytest

from deid_diffusion.faces.appearance import Traits, appearance_basis, causes, draw_appearance, texture_mesh
from deid_diffusion.faces.measures import measure
from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.faces.skin_colour import SkinColour

MESH = mean_mesh(128)


def test_a_portrait_is_a_picture_of_the_mean_mesh() -> None:
    one = draw_appearance(Traits(), MESH, 5)
    size = len(appearance_basis()["inside"])
    assert one.picture.shape == (size, size, 3)
    assert one.picture.dtype == np.float32
    assert one.picture.min() > 0
    assert one.picture.max() <= 1
    assert np.array_equal(one.mesh, texture_mesh(size))
    assert one.mesh[:468].min() >= 0
    assert one.mesh[:468].max() <= size


def test_a_seed_is_a_person_and_all_of_its_bits_count() -> None:
    first, again, other, high = (draw_appearance(Traits(), MESH, s).picture for s in (1, 1, 2, 1 + 2**40))
    assert np.array_equal(first, again)
    assert np.abs(first - other).mean() > 0.01
    assert np.abs(first - high).mean() > 0.01


def test_a_person_stays_when_the_face_moves() -> None:
    moved = draw_appearance(Traits(), 2 * MESH + 7, 1).picture
    assert np.allclose(moved, draw_appearance(Traits(), MESH, 1).picture, atol=1e-3)


@pytest.mark.parametrize(
    "other", [Traits(sex=1), Traits(age=70), Traits(skin=SkinColour((30.0, 12.0, 16.0), (1.0, 1.0, 1.0)))]
)
def test_traits_are_seen(other: Traits) -> None:
    assert np.abs(draw_appearance(other, MESH, 1).picture - draw_appearance(Traits(), MESH, 1).picture).mean() > 0.003


def test_women_are_not_drawn_with_what_men_differ_in(monkeypatch: pytest.MonkeyPatch) -> None:
    basis = dict(appearance_basis())
    woman, man = (draw_appearance(Traits(sex=sex), MESH, 1).picture for sex in (-1, 1))
    half = len(basis["directions"]) // 2
    basis["directions"] = basis["directions"].copy()
    basis["directions"][half:] = 0
    monkeypatch.setattr("deid_diffusion.faces.appearance.appearance_basis", lambda: basis)
    assert np.allclose(draw_appearance(Traits(sex=-1), MESH, 1).picture, woman, atol=1e-5)
    assert not np.allclose(draw_appearance(Traits(sex=1), MESH, 1).picture, man, atol=0.05)


def test_a_mesh_that_went_wrong_does_not_make_a_monster() -> None:
    wild = MESH.copy()
    wild[14, 1] += 200
    assert np.abs(causes(Traits(), measure(wild))).max() < 4


def test_what_training_faces_do_not_show_is_not_guessed_at() -> None:
    old, older = (draw_appearance(Traits(age=age), MESH, 1).picture for age in (75, 95))
    assert np.array_equal(old, older)
    shut = MESH.copy()
    shut[[159, 386]], shut[[145, 374]] = MESH[[145, 374]], MESH[[145, 374]]
    assert np.abs(draw_appearance(Traits(), shut, 1).picture - draw_appearance(Traits(), MESH, 1).picture).max() < 0.3


def test_a_photo_without_colours_tells_of_no_skin_without_blood() -> None:
    grey, usual = (Traits(skin=SkinColour((60.0, *ab), (1.0, 1.0, 1.0))) for ab in ((0.0, 0.0), (12.0, 16.0)))
    assert np.array_equal(draw_appearance(grey, MESH, 1).picture, draw_appearance(usual, MESH, 1).picture)
