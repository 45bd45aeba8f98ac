"""Whatever breaks on a clip's way, and from whichever call on: no original face stands under the result's name."""

from pathlib import Path

import pytest

from deid_diffusion.options import Options
from deid_diffusion.video.anonymize_clip import anonymize_clip
from deid_diffusion.video.reading import open_clip
from tests.test_fail_closed import ERRORS, REACHED, breaking, resolve
from tests.video.clips import Actor, bare, read, scene, write
from tests.video.oracle import Oracle

#: What a clip passes once, or rarely: it fails from the first call on.
ONCE = (
    "deid_diffusion.replacement.generate",
    "deid_diffusion.replacement.draw_people",
    "deid_diffusion.replacement.read_conditions",
    "deid_diffusion.files.os.fsync",
    "deid_diffusion.files.publish_new",
    "deid_diffusion.video.anonymize_clip.follow",
    "deid_diffusion.video.anonymize_clip.make_tracks",
    "deid_diffusion.video.anonymize_clip.cast",
    "deid_diffusion.video.anonymize_clip.join",
    "deid_diffusion.video.anonymize_clip.track_record",
    "deid_diffusion.video.found.Found.of",
    "deid_diffusion.video.roles.read_conditions",
    "deid_diffusion.video.roles.replace_faces",
    "deid_diffusion.video.tallies.Tallies.save",
)
#: What every frame passes: it fails from the third call on.
OFTEN = (
    "deid_diffusion.anonymizer.analyse_face",
    "deid_diffusion.anonymizer.select_faces",
    "deid_diffusion.anonymizer.touched",
    "deid_diffusion.anonymizer.missed_faces",
    "deid_diffusion.anonymizer.Canvas",
    "deid_diffusion.generation.extract",
    "deid_diffusion.generation.erase",
    "deid_diffusion.faces.blend.warp",
    "deid_diffusion.faces.blend.Canvas.paste",
    "deid_diffusion.pipelines.face_deid.FaceDeidPipeline.encode_attributes",
    "deid_diffusion.video.anonymize_clip.changed",
    "deid_diffusion.video.pixels._samples",
    "deid_diffusion.video.reading.to_rgb",
    "deid_diffusion.video.replacing.Cast.in_frame",
    "deid_diffusion.video.replacing.generate",
    "deid_diffusion.video.replacing.read_conditions",
    "deid_diffusion.video.replacing.steady_colour",
    "deid_diffusion.video.tracks.Track.at",
    "deid_diffusion.video.writing.SegmentWriter.add",
)
PARTS = ("detector", "landmarker", "gate.look", "gate.judge")  # of the anonymizer, likewise


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory):
    made = scene(5, (160, 120), (Actor(side=100, start=(10, 8), stop=(30, 8)),))
    return made, write(tmp_path_factory.mktemp("clip") / "a.mp4", made.frames, audio=None)


@pytest.mark.parametrize("station", [*ONCE, *OFTEN, *PARTS])
def test_an_exception_in_any_station_lets_no_face_out(station: str, clip, tiny, tmp_path: Path, monkeypatch) -> None:
    made, source = clip
    tiny.detector = Oracle(made)
    error, at = ERRORS[len(station) % len(ERRORS)], 0 if station in ONCE else 2
    REACHED.clear()
    where, _, name = station.rpartition(".")
    owner = resolve(where) if where.startswith("deid") else tiny.gate if where else tiny
    monkeypatch.setattr(owner, name, breaking(error, getattr(owner, name), at))
    target = tmp_path / "a.mp4"
    try:
        anonymize_clip(tiny, open_clip(source), target, Options())
    except Exception:
        assert not target.exists()
    else:
        assert bare(made, read(target)) == []
    assert REACHED
