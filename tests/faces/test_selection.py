"""Which faces are processed: every one, unless somebody asks for less."""

from __future__ import annotations

import pytest

from deid_diffusion.errors import UsageError
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.selection import Selection, select_faces


def _face(*box: float) -> Detection:
    return Detection((box[0], box[1], box[2], box[3]), 0.9, "fake")


SMALL, WIDE, LARGE = _face(0, 0, 20, 24), _face(30, 0, 90, 19), _face(100, 100, 200, 220)
FACES = (SMALL, WIDE, LARGE)


def test_without_wishes_every_face_is_processed():
    assert select_faces(FACES) == Selection((0, 1, 2), {})
    assert select_faces(()) == Selection((), {})


def test_the_shorter_side_decides_and_the_limit_itself_is_large_enough():
    assert select_faces(FACES, min_face=20) == Selection((0, 2), {1: "smaller than --min-face 20"})
    assert select_faces(FACES, min_face=500).process == ()


@pytest.mark.parametrize(
    ("place", "meant"),
    [
        (_face(140, 150, 155, 165), True),  # holds the centre
        (_face(0, 0, 1000, 1000), True),
        (_face(100, 100, 200, 130), True),  # a quarter of the face
        (_face(100, 100, 200, 120), False),  # a sixth of it
        (_face(200, 220, 300, 300), False),
    ],
)
def test_a_place_means_the_faces_that_it_overlaps(place: Detection, meant: bool):
    chosen = select_faces((LARGE,), only=(_face(900, 900, 910, 910), place))
    assert chosen == (Selection((0,), {}) if meant else Selection((), {0: "excluded by --annotations or --only"}))


def test_no_place_at_all_means_no_face():
    assert select_faces(FACES, only=()).kept == dict.fromkeys(range(3), "excluded by --annotations or --only")


def test_wishes_add_up():
    chosen = select_faces(FACES, min_face=20, only=(WIDE, LARGE))
    assert chosen == Selection((2,), {0: "excluded by --annotations or --only", 1: "smaller than --min-face 20"})


@pytest.mark.parametrize("size", [-1, float("nan"), float("inf")])
def test_a_size_that_is_none(size: float):
    with pytest.raises(UsageError, match="--min-face"):
        select_faces(FACES, min_face=size)
