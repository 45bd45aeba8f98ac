"""Failures at any stage of a clip and at any time: no original face is left under the result's name."""

import pytest

from deid_diffusion.io.video_reader import open_clip
from deid_diffusion.options import Options
from deid_diffusion.video.anonymize import anonymize_clip
from tests.test_fail_closed import ERRORS, REACHED, break_stage, breaking
from tests.video.clips import Actor, bare, read, scene, write
from tests.video.oracle import Oracle

ONCE = (
    "deid_diffusion.generation.generate",
    "deid_diffusion.generation.choose_donors",
    "deid_diffusion.generation.prepare_inputs",
    "deid_diffusion.io.files.os.fsync",
    "deid_diffusion.io.files.publish_new",
    "deid_diffusion.video.anonymize.follow",
    "deid_diffusion.video.anonymize.make_tracks",
    "deid_diffusion.video.anonymize.assign_identities",
    "deid_diffusion.video.anonymize.join",
    "deid_diffusion.video.anonymize.track_record",
    "deid_diffusion.video.tracking.ClipDetections.of",
    "deid_diffusion.video.identities.prepare_inputs",
    "deid_diffusion.video.identities.FaceGenerator",
    "deid_diffusion.video.checkpoint.ClipStats.save",
)
"""Stages that a clip passes once, or rarely: they fail from the first call on."""
OFTEN = (
    "deid_diffusion.anonymizer.analyse_face",
    "deid_diffusion.anonymizer.select_faces",
    "deid_diffusion.anonymizer.finalize",
    "deid_diffusion.faces.finalization.cover_residual_faces",
    "deid_diffusion.faces.face.Canvas",
    "deid_diffusion.faces.face.union_mask",
    "deid_diffusion.faces.face.erase",
    "deid_diffusion.generation.extract",
    "deid_diffusion.faces.compositing.warp",
    "deid_diffusion.faces.compositing.Canvas.paste",
    "deid_diffusion.pipelines.face_deid.FaceDeidPipeline.encode_attributes",
    "deid_diffusion.video.anonymize.replace_changed",
    "deid_diffusion.io.video_reader._samples",
    "deid_diffusion.io.video_reader.to_rgb",
    "deid_diffusion.video.identities.ClipGenerator.__call__",
    "deid_diffusion.video.identities.generate",
    "deid_diffusion.video.identities.prepare_inputs",
    "deid_diffusion.video.identities.choose_donors",
    "deid_diffusion.video.identities.smooth_colour",
    "deid_diffusion.video.tracking.Track.at",
    "deid_diffusion.io.video_writer.SegmentWriter.add",
)
"""Stages that every frame passes: they fail from the third call on."""
PARTS = ("detector", "landmarker", "verifier.reference", "verifier.verify")  # of the anonymizer, likewise


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory):
    """A scene of a face and its file."""
    shown = scene(5, (160, 120), (Actor(side=100, start=(10, 8), stop=(30, 8)),))
    return shown, write(tmp_path_factory.mktemp("clip") / "a.mp4", shown.frames, audio=None)


@pytest.mark.parametrize("stage", [*ONCE, *OFTEN, *PARTS])
def test_exception_at_any_stage(stage, clip, tiny, tmp_path, monkeypatch):
    shown, source = clip
    tiny.detector = Oracle(shown)
    error, at = ERRORS[len(stage) % len(ERRORS)], 0 if stage in ONCE else 2
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
