"""Whatever breaks on a clip's way, and from whichever call on: no original face stands under the result's name."""

from pathlib import Path

import pytest

from deid_diffusion.io.video import open_clip
from deid_diffusion.options import Options
from deid_diffusion.video.anonymize import anonymize_clip
from tests.test_fail_closed import ERRORS, REACHED, breaking, resolve
from tests.video.clips import Actor, bare, read, scene, write
from tests.video.oracle import Oracle

#: What a clip passes once, or rarely: it fails from the first call on.
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
#: What every frame passes: it fails from the third call on.
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
    "deid_diffusion.io.video._samples",
    "deid_diffusion.io.video.to_rgb",
    "deid_diffusion.video.identities.ClipGenerator.__call__",
    "deid_diffusion.video.identities.generate",
    "deid_diffusion.video.identities.prepare_inputs",
    "deid_diffusion.video.identities.choose_donors",
    "deid_diffusion.video.identities.smooth_colour",
    "deid_diffusion.video.tracking.Track.at",
    "deid_diffusion.io.video.SegmentWriter.add",
)
PARTS = ("detector", "landmarker", "verifier.reference", "verifier.verify")  # of the anonymizer, likewise


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory):
    made = scene(5, (160, 120), (Actor(side=100, start=(10, 8), stop=(30, 8)),))
    return made, write(tmp_path_factory.mktemp("clip") / "a.mp4", made.frames, audio=None)


@pytest.mark.parametrize("station", [*ONCE, *OFTEN, *PARTS])
def test_exception_at_any_stage(station: str, clip, tiny, tmp_path: Path, monkeypatch) -> None:
    made, source = clip
    tiny.detector = Oracle(made)
    error, at = ERRORS[len(station) % len(ERRORS)], 0 if station in ONCE else 2
    REACHED.clear()
    where, _, name = station.rpartition(".")
    owner = resolve(where) if where.startswith("deid") else tiny.verifier if where else tiny
    monkeypatch.setattr(owner, name, breaking(error, getattr(owner, name), at))
    target = tmp_path / "a.mp4"
    try:
        anonymize_clip(tiny, open_clip(source), target, Options())
    except Exception:
        assert not target.exists()
    else:
        assert bare(made, read(target)) == []
    assert REACHED
