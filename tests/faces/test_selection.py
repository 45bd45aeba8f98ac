import pytest

from deid_diffusion.errors import UsageError
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.selection import Selection, select_faces


def face(*box: float) -> Detection:
    return Detection(box, 0.9, "fake")


EXCLUDED, TOO_SMALL = "excluded by --annotations or --only", "smaller than --min-face 20"
SMALL, WIDE, LARGE = face(0, 0, 20, 24), face(30, 0, 90, 19), face(100, 100, 200, 220)
FACES = (SMALL, WIDE, LARGE)


def test_all_faces_by_default():
    assert select_faces(FACES) == Selection((0, 1, 2), {})
    assert select_faces(()) == Selection((), {})


def test_min_face():
    assert select_faces(FACES, min_face=20) == Selection((0, 2), {1: TOO_SMALL})
    assert select_faces(FACES, min_face=500).process == ()


@pytest.mark.parametrize(
    ("place", "selected"),
    [
        (face(140, 150, 155, 165), True),  # holds the centre
        (face(0, 0, 1000, 1000), True),
        (face(100, 100, 200, 130), True),  # a quarter of the face
        (face(100, 100, 200, 120), False),  # a sixth of it
        (face(200, 220, 300, 300), False),
    ],
)
def test_only_selects_by_overlap(place: Detection, selected: bool):
    selection = select_faces((LARGE,), only=(face(900, 900, 910, 910), place))
    assert selection == (Selection((0,), {}) if selected else Selection((), {0: EXCLUDED}))
    assert select_faces((LARGE,), only=()).kept == {0: EXCLUDED}


def test_options_are_combined():
    assert select_faces(FACES, min_face=20, only=(WIDE, LARGE)) == Selection((2,), {0: EXCLUDED, 1: TOO_SMALL})


@pytest.mark.parametrize("size", [-1, float("nan"), float("inf")])
def test_invalid_min_face(size: float):
    with pytest.raises(UsageError, match="--min-face"):
        select_faces(FACES, min_face=size)
