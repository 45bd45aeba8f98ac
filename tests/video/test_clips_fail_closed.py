"""Failures at any stage of a clip and at any time: no original face is left under the result's name."""

import pytest

from deid_diffusion.io.video import open_clip
from deid_diffusion.options import Options
from deid_diffusion.video.anonymize import anonymize_clip
from tests.test_fail_closed import ERRORS, REACHED, break_stage, breaking, stages
from tests.video.clips import Actor, bare, read, scene, write
from tests.video.oracle import Oracle

ONCE = stages(
    {
        "generation": "generate choose_donors prepare_inputs",
        "io.files": "os.fsync publish_new",
        "video.anonymize": "follow make_tracks assign_identities join track_record",
        "video.tracking": "ClipDetections.of",
        "video.identities": "prepare_inputs FaceGenerator",
        "video.checkpoint": "ClipStats.save",
    }
)
"""Stages that a clip passes once, or rarely: they fail from the first call on."""
OFTEN = stages(
    {
        "anonymizer": "analyse_face select_faces finalize",
        "faces.finalization": "cover_residual_faces",
        "faces.face": "Canvas union_mask erase",
        "generation": "extract",
        "faces.compositing": "warp Canvas.paste",
        "pipelines.face_deid.FaceDeidPipeline": "encode_attributes",
        "video.anonymize": "replace_changed",
        "io.video": "_samples to_rgb SegmentWriter.add",
        "video.identities": "ClipGenerator.__call__ generate prepare_inputs choose_donors smooth_colour",
        "video.tracking": "Track.at",
    }
)
"""Stages that every frame passes: they fail from the third call on."""
PARTS = ("detector", "landmarker", "verifier.reference", "verifier.verify")  # of the anonymizer, likewise


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory):
    """A scene of a face and its file."""
    shown = scene(5, (160, 120), (Actor(side=100, start=(10, 8), stop=(30, 8)),))
    return shown, write(tmp_path_factory.mktemp("clip") / "a.mp4", shown.frames, audio=None)


@pytest.mark.parametrize(
    ("stage", "at"), [*((stage, 0) for stage in ONCE), *((stage, 2) for stage in (*OFTEN, *PARTS))]
)
def test_exception_at_any_stage(stage, at, clip, tiny, tmp_path, monkeypatch):
    shown, source = clip
    tiny.detector = Oracle(shown)
    error = ERRORS[len(stage) % len(ERRORS)]
    if stage in PARTS:
        REACHED.clear()
        owner, _, name = stage.rpartition(".")
        part = tiny.verifier if owner else tiny
        monkeypatch.setattr(part, name, breaking(error, getattr(part, name), at))
    else:
        break_stage(monkeypatch, stage, error, at)
    target = tmp_path / "a.mp4"
    try:
        anonymize_clip(tiny, open_clip(source), target, Options())
    except Exception:
        assert not target.exists()
    else:
        assert bare(shown, read(target)) == []
    assert REACHED
