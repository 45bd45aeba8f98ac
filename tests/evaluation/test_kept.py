"""What counts as kept, and what a face that is not found again keeps."""

import pytest
from looks import errors, face

from deid_diffusion.evaluation.kept import kept, share_kept
from deid_diffusion.evaluation.onnx_judges import Reading


def test_within_the_tolerances():
    verdicts = kept(face(mesh=errors(yaw=10.0, pitch=10.1, smile=0.05, gaze=0.2)), read=False)
    assert verdicts == {
        "yaw": True, "pitch": False, "gaze": False, "smile": True, "mouth_open": True, "eyes_open": True
    }  # fmt: skip
    assert share_kept(face(mesh=errors(yaw=11.0)), read=False) == pytest.approx(5 / 6)


def test_what_the_original_does_not_show_is_left_out():
    assert "gaze" not in kept(face(mesh=errors(gaze=None)), read=False)
    assert share_kept(face(), read=False) == 1


def test_a_face_that_is_gone_keeps_nothing():
    gone = kept(face(found=False), read=True)
    assert set(gone) == {"yaw", "pitch", "gaze", "smile", "mouth_open", "eyes_open", "sex", "age"}
    assert not any(gone.values())


def test_age_and_sex():
    same = face(readings=(Reading(30, 0.9), Reading(40, 0.6)))
    other = face(readings=(Reading(30, 0.9), Reading(41, 0.4)))
    assert kept(same, read=True)["sex"]
    assert kept(same, read=True)["age"]
    assert not kept(other, read=True)["sex"]
    assert not kept(other, read=True)["age"]
    assert share_kept(other, read=True) == pytest.approx(6 / 8)
