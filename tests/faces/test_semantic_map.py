import numpy as np

from deid_diffusion.faces.crop import similarity, transform
from deid_diffusion.faces.labels import LABEL, LABELS, PALETTE
from deid_diffusion.faces.landmarks import five_points
from deid_diffusion.faces.measures import measure
from deid_diffusion.faces.semantic_map import control_image, draw_semantic_map, mean_mesh


def test_the_mean_face_has_every_part_where_it_belongs() -> None:
    labels = draw_semantic_map(mean_mesh(256), 256)
    names = {LABELS[i] for i in np.unique(labels)}
    assert names >= {"skin", "nose", "l_eye", "r_eye", "l_brow", "r_brow", "u_lip", "l_lip", "iris"}
    rows = {name: np.nonzero(labels == LABEL[name])[0].mean() for name in names}
    columns = {name: np.nonzero(labels == LABEL[name])[1].mean() for name in names}
    assert rows["r_brow"] < rows["r_eye"] < rows["nose"] < rows["u_lip"] < rows["l_lip"]
    assert columns["r_eye"] < columns["nose"] < columns["l_eye"]  # the subject's right is the picture's left


def test_control_image_is_the_palette_and_can_be_read_back() -> None:
    labels = np.arange(len(LABELS), dtype=np.uint8)[None].repeat(4, 0)
    colours = control_image(labels)
    assert colours.shape == (4, len(LABELS), 3)
    assert (np.abs(colours[..., None, :].astype(int) - PALETTE).sum(-1).argmin(-1) == labels).all()
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == len(LABELS)


def test_mean_mesh_follows_five_points() -> None:
    move = similarity((70, 60), 140, 0.3, 128)
    points = transform(five_points(mean_mesh(128)), move)
    assert np.abs(five_points(mean_mesh(128, points)) - points).max() < 1


def test_a_profiles_points_get_a_profiles_mesh() -> None:
    turned = mean_mesh(128)
    points = five_points(turned)
    middle = points[:, 0].mean()
    points[:, 0] = (
        middle + 0.3 * (points[:, 0] - middle) + np.array([0, 0, 22, 0, 0])
    )  # both eyes close, nose far right
    assert measure(mean_mesh(128, points)).yaw > measure(turned).yaw + 0.4


def test_points_that_fit_no_face_leave_the_mean_face_in_the_middle() -> None:
    points = np.full((5, 2), 3, np.float32)
    assert np.array_equal(mean_mesh(128, points), mean_mesh(128))
