import numpy as np

from deid_diffusion.faces.crop import extract, frame_from_box
from deid_diffusion.faces.landmarks import FaceMesh, five_points


def test_the_astronauts_mesh_lies_on_her_face(astronaut: np.ndarray) -> None:
    crop = extract(astronaut, frame_from_box((170, 60, 270, 190), None, 320), 320)
    mesh = FaceMesh()(crop)
    assert mesh is not None
    assert mesh.shape == (478, 2)
    right, left, nose, right_mouth, left_mouth = five_points(mesh)
    assert right[0] < nose[0] < left[0]
    assert right_mouth[0] < left_mouth[0]
    assert right[1] < nose[1] < right_mouth[1]


def test_no_face_gives_no_mesh() -> None:
    assert FaceMesh()(np.full((320, 320, 3), 90, np.uint8)) is None
