"""A clip's whole way: no face is bare in any frame, everybody stays who they are, the rest is kept."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.errors import VideoError
from deid_diffusion.faces.compositing import FILL
from deid_diffusion.identity.verification import VerificationResult
from deid_diffusion.io.video import open_clip
from deid_diffusion.options import Options
from deid_diffusion.video.anonymize import AnonymizedVideo, anonymize_clip
from tests.fake_verifier import FAIL, PASS, FakeVerifier
from tests.video.clips import FACE, Actor, Scene, bare, packets, read, scene, write
from tests.video.oracle import Oracle, Painter, let_paint

TWO = (Actor(), Actor((1, 5), 100, (200, 10), (190, 110)))


def run(model: Anonymizer, source: Path, options: Options | None = None, **wishes) -> AnonymizedVideo:
    target = source.parent / "out" / source.name
    target.parent.mkdir(exist_ok=True)
    return anonymize_clip(model, open_clip(source), target, options or Options(), **wishes)


def result(source: Path) -> list[np.ndarray]:
    return read(source.parent / "out" / source.name)


def looked_at(model: Anonymizer, made: Scene, blind: tuple[int, ...] = ()) -> Oracle:
    model.detector = Oracle(made, blind)
    return model.detector


def test_all_frames_replaced_rest_unchanged(tmp_path, tiny, painter) -> None:
    made = scene(50, actors=TWO)
    source = write(tmp_path / "a.mp4", made.frames)
    looked_at(tiny, made)
    done = run(tiny, source)
    after = result(source)
    assert bare(made, read(source)) == [(number, actor) for number in range(50) for actor in (0, 1)]  # the test's eyes
    assert bare(made, after) == []
    assert [(one.first, one.last, one.replaced, one.covered, one.action) for one in done.tracks] == [
        (0, 49, 50, 0, "replaced")
    ] * 2
    assert (done.frames, done.missed, done.filled) == (50, 0, 0)
    assert packets(source) == packets(source.parent / "out" / "a.mp4")
    with av.open(str(source)) as one, av.open(str(tmp_path / "out" / "a.mp4")) as other:
        assert one.streams.video[0].frames == other.streams.video[0].frames == 50
        assert one.streams.video[0].duration == other.streams.video[0].duration
        assert one.duration == other.duration
    outside = [one[:50, :180].astype(int) - two[:50, :180] for one, two in zip(made.frames, after, strict=True)]
    assert np.abs(outside).max() < 12
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mp4"]  # no workplace is left


def test_a_track_has_one_pseudonym(tmp_path, tiny, painter) -> None:
    made = scene(12, actors=TWO)
    source = write(tmp_path / "a.mp4", made.frames)
    looked_at(tiny, made)
    done = run(tiny, source)
    last = painter.seeds[-1]
    assert len(set(last)) == 2
    assert set(last) == {one.seed for one in done.tracks}
    assert painter.seeds[-12:] == [last] * 12
    assert all(np.array_equal(one, painter.features[-1]) for one in painter.features[-12:])
    before = [one.seed for one in done.tracks]
    again = run(tiny, source, overwrite=True)
    assert not set(before) & {one.seed for one in again.tracks}  # nothing links two runs
    fixed = [run(tiny, source, Options(seed=5), overwrite=True) for _ in range(2)]
    assert [[one.seed for one in done.tracks] for done in fixed] == [[5, 6]] * 2


@pytest.mark.parametrize("mesh", [True, False])
def test_detector_dropouts_leave_no_face(mesh, tmp_path, tiny) -> None:
    made = scene(40)
    source = write(tmp_path / "a.mp4", made.frames)
    looked_at(tiny, made, blind=(17, 18, 19))
    if not mesh:
        tiny.landmarker = lambda crop: None
    done = run(tiny, source)
    assert bare(made, result(source)) == []
    (track,) = done.tracks
    assert (track.seen, track.frames, track.replaced) == (37, 40, 40 if mesh else 37)
    assert track.covered == (0 if mesh else 3)


def test_margins_before_and_after_detections(tmp_path, tiny) -> None:
    """Who comes and goes is often seen late: here the detector sees from frame 13 to 25 who is there from 10 to 28."""
    made = scene(40, actors=(Actor(frames=(10, 29)),))
    source = write(tmp_path / "a.mp4", made.frames)
    looked_at(tiny, made, blind=(10, 11, 12, 26, 27, 28))
    tiny.landmarker = lambda crop: None
    (track,) = run(tiny, source).tracks
    assert bare(made, result(source)) == []
    assert (track.first, track.last, track.covered, track.covered_around) == (13, 25, 0, 6)


def test_failing_generation_covers_frames(tmp_path, tiny, painter) -> None:
    made = scene(30)
    source = write(tmp_path / "a.mp4", made.frames)
    looked_at(tiny, made)
    painter.failing = (5, 6, 20)
    (track,) = run(tiny, source, Options(fill_colour="grey")).tracks
    after = result(source)
    assert bare(made, after) == []
    assert (track.replaced, track.covered, track.reasons) == (27, 3, {"generation failed: RuntimeError": 3})
    x0, y0, x1, y1 = made.box(4, 0, FACE)  # call 0 chose the face, so call 5 is frame 4
    assert np.abs(after[4][y0 + 20 : y1 - 20, x0 + 15 : x1 - 15].astype(int) - FILL).max() < 12


def test_rejected_face_holds_previous_one(tmp_path, tiny) -> None:
    made = scene(20)
    source = write(tmp_path / "a.mp4", made.frames)
    looked_at(tiny, made)
    tiny.verifier = FakeVerifier(lambda n: FAIL if n in (6, 8, 9) else PASS)  # frames 5 (held), 6 (refused twice)
    (track,) = run(tiny, source).tracks
    assert (track.replaced, track.covered) == (19, 1)
    assert bare(made, result(source)) == []
    tiny.verifier = FakeVerifier(lambda n: FAIL)
    (track,) = run(tiny, source, overwrite=True).tracks
    assert (track.action, track.covered, track.seed, track.similarity) == ("covered", 20, None, None)
    assert bare(made, result(source)) == []


def test_failing_frame_is_filled(tmp_path, tiny, monkeypatch) -> None:
    made = scene(20)
    source = write(tmp_path / "a.mp4", made.frames)
    sees = looked_at(tiny, made)

    def detector(image):
        if len(sees.calls) == 3:
            sees.calls.append(-1)
            raise MemoryError
        return sees(image)

    tiny.detector = detector
    monkeypatch.setattr("deid_diffusion.faces.finalization.union_mask", _failing(4))
    done = run(tiny, source)
    after = result(source)
    assert (done.filled, done.errors) == (2, ("ValueError", "search failed"))
    assert bare(made, after) == []
    assert np.abs(after[3].astype(int) - FILL).max() < 6


def _failing(at: int):
    from deid_diffusion.faces.masks import union_mask

    calls = iter(range(10**6))

    def broken(*given):
        if next(calls) == at:
            raise ValueError("out of luck")
        return union_mask(*given)

    return broken


@pytest.mark.parametrize("method", ["fill", "blur", "pixelate"])
def test_the_simple_methods(method, tmp_path, tiny, painter) -> None:
    made = scene(20)
    source = write(tmp_path / "a.mp4", made.frames)
    looked_at(tiny, made, blind=(8, 9))
    (track,) = run(tiny, source, Options(method=method)).tracks
    assert bare(made, result(source)) == []
    assert (track.replaced, track.seed, painter.seeds) == (20, None, [])
    assert track.action == {"fill": "filled", "blur": "blurred", "pixelate": "pixelated"}[method]


def test_clip_without_faces_unchanged(tmp_path, tiny) -> None:
    made = scene(10, actors=())
    source = write(tmp_path / "a.mp4", made.frames)
    looked_at(tiny, made)
    done = run(tiny, source)
    assert done.tracks == ()
    with av.open(str(tmp_path / "out" / "a.mp4")) as container:
        assert "comment" not in container.metadata  # nothing was generated
    with pytest.raises(VideoError, match="no face found"):
        run(tiny, source, require_face=True, overwrite=True)


def test_existing_result_is_kept(tmp_path, tiny) -> None:
    made = scene(5)
    source = write(tmp_path / "a.mp4", made.frames)
    looked_at(tiny, made)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.mp4").write_bytes(b"mine")
    with pytest.raises(VideoError, match="exists already"):
        run(tiny, source)
    assert (tmp_path / "out" / "a.mp4").read_bytes() == b"mine"


def test_with_a_key_the_person_decides(tmp_path, tiny, painter) -> None:
    from deid_diffusion.identity.keys import Key
    from deid_diffusion.identity.pseudonyms import Pseudonyms

    made = scene(20, actors=TWO)
    source = write(tmp_path / "a.mp4", made.frames)
    looked_at(tiny, made)
    tiny.verifier = ByPlace()
    key = Key(bytes(range(32)))
    people = Pseudonyms(key, tmp_path / "store", recogniser="fake", dimension=4, threshold=0.9)
    done = [run(tiny, source, Options(pseudonyms=people), overwrite=True) for _ in range(2)]
    names = [[one.pseudonym for one in each.tracks] for each in done]
    assert names[0] == names[1]
    assert len(set(names[0])) == 2
    assert all(one.seed is None for each in done for one in each.tracks)
    assert painter.seeds[-1] == painter.seeds[19 + 2]  # last frame of both runs, each with two choices of faces before
    assert all(painter.keyed)
    assert [faces for _, faces in people.people()] == [2, 2]  # a face a run, however many frames


class ByPlace(FakeVerifier):
    """Knows people by the side of the picture on which they are."""

    def reference(self, photo, face):
        x0, _, x1, _ = face.detection.box
        vector = np.eye(4, dtype=np.float32)[int(x0 + x1 > 370)]
        return replace(super().reference(photo, face), embedding=vector)

    def verify(self, picture, face, original):
        return VerificationResult(0.2, None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_that_was_killed_goes_on(tmp_path, tiny, painter, monkeypatch) -> None:
    made = scene(50)
    source = write(tmp_path / "a.mp4", made.frames)
    looked_at(tiny, made)
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_slowly, args=(tiny, source, painter))
    child.start()
    for _ in range(3000):
        there = list((tmp_path / "out").glob(".a.mp4.deid-*/segment-00001.mkv"))
        if there or not child.is_alive():
            break
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert there
    assert not (tmp_path / "out" / "a.mp4").exists()
    finished = {path.name: path.stat().st_mtime_ns for path in there[0].parent.glob("segment-*.mkv")}
    assert sorted(finished) == ["segment-00000.mkv", "segment-00001.mkv"]
    assert there[0].parent.stat().st_mode & 0o077 == 0

    kept: dict[str, int] = {}
    from deid_diffusion.video import anonymize as module

    real = module.join

    def joined(clip, segments, *given, **named):
        kept.update({path.name: path.stat().st_mtime_ns for path in segments})
        real(clip, segments, *given, **named)

    monkeypatch.setattr(module, "join", joined)
    tiny.detector.calls.clear()
    (track,) = run(tiny, source).tracks
    assert {name: kept[name] for name in finished} == finished
    assert len(painter.seeds) == 10  # the third stretch alone
    assert tiny.detector.calls == list(range(40, 50))  # and its second look
    assert {seeds[0] for seeds in painter.seeds} == {track.seed}
    assert track.replaced == 50
    assert bare(made, result(source)) == []
    assert packets(source) == packets(tmp_path / "out" / "a.mp4")


def _slowly(model: Anonymizer, source: Path, painter: Painter) -> None:
    torch.set_num_threads(1)
    paint = painter.paint
    painter.paint = lambda seed, size: (time.sleep(0.05), paint(seed, size))[1]
    run(model, source)


def test_other_options_begin_anew(tmp_path, tiny, monkeypatch) -> None:
    made = scene(10)
    source = write(tmp_path / "a.mp4", made.frames)
    looked_at(tiny, made)
    monkeypatch.setattr("deid_diffusion.video.anonymize.join", _raising)
    for options in (Options(), Options(num_inference_steps=3)):
        with pytest.raises(VideoError, match="out of luck"):
            run(tiny, source, options)
    assert len(list((tmp_path / "out").glob(".a.mp4.deid-*"))) == 2
    monkeypatch.undo()
    let_paint(monkeypatch, Painter())
    run(tiny, source, Options(num_inference_steps=3))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mp4"]


def _raising(*given, **named):
    raise VideoError("out of luck")


def test_the_embedded_model(tmp_path, anonymizer) -> None:
    """A real face, a real detector, a real gate: somebody else, and the same one from frame to frame."""
    from deid_diffusion.faces.detectors import CenterFaceDetector
    from deid_diffusion.identity.recognition import DlibRecogniser

    made = scene(8, (160, 120), (Actor(side=110, start=(4, 4), stop=(40, 4)),))
    source = write(tmp_path / "a.mp4", made.frames)
    quick = Anonymizer(anonymizer.pipeline, detector=CenterFaceDetector(), verifier=anonymizer.verifier)
    (track,) = run(quick, source, Options(seed=7)).tracks
    after = result(source)
    assert bare(made, after) == []
    assert track.replaced == 8, track.reasons
    look, recognise = CenterFaceDetector(), DlibRecogniser()
    found = [look(one)[0] for one in after]
    vectors = [recognise(one, face.points) for one, face in zip(after, found, strict=True)]
    assert min(float(one @ other) for one, other in pairwise(vectors)) > DlibRecogniser.threshold
