import numpy as np

from deid_diffusion.faces.crop import extract, frame_from_mesh, transform
from deid_diffusion.faces.fidelity import blotches, misfit
from deid_diffusion.faces.landmarks import FaceMesh
from deid_diffusion.faces.semantic_map import draw_semantic_map, mean_mesh


def test_the_face_that_was_asked_for_fits_and_others_do_not(astronaut: np.ndarray) -> None:
    landmarker = FaceMesh()
    mesh = landmarker(astronaut[:256, 92:348])
    matrix = frame_from_mesh(mesh, 128)
    crop, wanted = extract(astronaut[:256, 92:348], matrix, 128), transform(mesh, matrix)
    labels = draw_semantic_map(wanted, 128)
    own = misfit(crop, wanted, labels, landmarker)
    assert own < 0.1
    assert misfit(crop, wanted + 8, labels, landmarker) > own + 0.05
    assert misfit(np.full_like(crop, 128), wanted, labels, landmarker) >= 1
    assert misfit(crop, None, labels, landmarker) <= own


def test_shadow_is_no_blotch_but_colour_is() -> None:
    labels = draw_semantic_map(mean_mesh(128), 128)
    skin = np.full((128, 128, 3), (200, 150, 130), np.uint8)
    shaded, stained = skin.copy(), skin.copy()
    shaded[:, :64] = (150, 112, 98)
    stained[:, :64] = (120, 150, 200)
    assert blotches(skin, labels) < 0.01
    assert blotches(shaded, labels) < 0.25 * blotches(stained, labels)
    assert blotches(skin, labels * 0) == 0
