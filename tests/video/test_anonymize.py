"""Clips from file to file: all faces replaced in all frames, by the same person each time, the rest kept."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.errors import VideoError
from deid_diffusion.faces.compositing import FILL
from deid_diffusion.identity.pseudonyms import Pseudonyms
from deid_diffusion.identity.verification import VerificationResult
from tests.fake_verifier import FAIL, PASS, FakeVerifier
from tests.test_fail_closed import break_stage
from tests.video.clips import FACE, Actor, Clip, bare, packets, read, scene, write
from tests.video.oracle import Painter

TWO = (Actor(), Actor((1, 5), 100, (200, 10), (190, 110)))


def test_all_frames_replaced_rest_unchanged(clip):
    clip = clip(20, actors=TWO)
    result = clip.run()
    frames = clip.frames()
    everywhere = [(number, actor) for number in range(20) for actor in (0, 1)]
    assert bare(clip.scene, read(clip.source)) == everywhere  # the test sees faces
    assert clip.bare() == []
    for track in result.tracks:
        assert (track.first, track.last, track.replaced, track.covered, track.action) == (0, 19, 20, 0, "replaced")
    assert (len(result.tracks), result.frames, result.missed, result.filled) == (2, 20, 0, 0)
    assert packets(clip.source) == packets(clip.target)
    with av.open(str(clip.source)) as source, av.open(str(clip.target)) as target:
        assert source.streams.video[0].frames == target.streams.video[0].frames == 20
        assert source.streams.video[0].duration == target.streams.video[0].duration
        assert source.duration == target.duration
    outside = [a[:50, :180].astype(int) - b[:50, :180] for a, b in zip(clip.scene.frames, frames, strict=True)]
    assert np.abs(outside).max() < 12
    assert list(clip.target.parent.iterdir()) == [clip.target]  # no checkpoint is left


def test_track_keeps_face(clip, painter):
    clip = clip(8, actors=TWO)
    seeds = [track.seed for track in clip.run().tracks]
    assert len(set(seeds)) == 2
    assert set(painter.seeds[-1]) == set(seeds)
    assert painter.seeds[-8:] == painter.seeds[-1:] * 8
    assert all(np.array_equal(features, painter.features[-1]) for features in painter.features[-8:])
    assert not set(seeds) & {track.seed for track in clip.run(overwrite=True).tracks}  # nothing links two runs
    for _ in range(2):
        assert [track.seed for track in clip.run(seed=5, overwrite=True).tracks] == [5, 6]


@pytest.mark.parametrize("mesh", [True, False])
def test_detector_dropouts_leave_no_face(mesh, clip, tiny):
    if not mesh:
        tiny.landmarker = lambda crop: None
    clip = clip(20, blind=(7, 8, 9))
    (track,) = clip.run().tracks
    assert clip.bare() == []
    assert (track.seen, track.frames, track.replaced) == (17, 20, 20 if mesh else 17)
    assert track.covered == (0 if mesh else 3)


def test_margins_before_and_after_detections(clip, tiny):
    """Faces that come and go are often detected late: here from frame 9 to 15, and they are there from 6 to 18."""
    tiny.landmarker = lambda crop: None
    clip = clip(24, actors=(Actor(frames=(6, 19)),), blind=(6, 7, 8, 16, 17, 18))
    (track,) = clip.run().tracks
    assert clip.bare() == []
    assert (track.first, track.last, track.covered, track.covered_around) == (9, 15, 0, 6)


def test_failing_generation_covers_frames(clip, painter):
    clip = clip(12)
    painter.failing = (5, 6, 9)
    (track,) = clip.run(fill_colour="grey").tracks
    assert clip.bare() == []
    assert (track.replaced, track.covered, track.reasons) == (9, 3, {"generation failed: RuntimeError": 3})
    x0, y0, x1, y1 = clip.scene.box(4, 0, FACE)  # call 0 chose the face, so call 5 is frame 4
    assert np.abs(clip.frames()[4][y0 + 20 : y1 - 20, x0 + 15 : x1 - 15].astype(int) - FILL).max() < 12


def test_rejected_face_holds_previous_one(clip, tiny):
    clip = clip(12)
    tiny.verifier = FakeVerifier(lambda n: FAIL if n in (6, 8, 9) else PASS)  # frames 5 (held), 6 (rejected twice)
    (track,) = clip.run().tracks
    assert (track.replaced, track.covered) == (11, 1)
    assert clip.bare() == []
    tiny.verifier = FakeVerifier(lambda n: FAIL)
    (track,) = clip.run(overwrite=True).tracks
    assert (track.action, track.covered, track.seed, track.similarity) == ("covered", 12, None, None)
    assert clip.bare() == []


def test_failing_frame_is_filled(clip, tiny, monkeypatch):
    from deid_diffusion.faces.masks import union_mask

    clip = clip(12)
    oracle, calls = clip.model.detector, count()

    def detector(image):
        if len(oracle.calls) == 3:
            oracle.calls.append(-1)
            raise MemoryError
        return oracle(image)

    def broken(*arguments):
        if next(calls) == 4:
            raise ValueError("out of luck")
        return union_mask(*arguments)

    tiny.detector = detector
    monkeypatch.setattr("deid_diffusion.faces.finalization.union_mask", broken)
    result = clip.run()
    assert (result.filled, result.errors) == (2, ("ValueError", "search failed"))
    assert clip.bare() == []
    assert np.abs(clip.frames()[3].astype(int) - FILL).max() < 6


@pytest.mark.parametrize(("method", "action"), [("fill", "filled"), ("blur", "blurred"), ("pixelate", "pixelated")])
def test_simple_methods(method, action, clip, painter):
    clip = clip(10, blind=(4, 5))
    (track,) = clip.run(method=method).tracks
    assert clip.bare() == []
    assert (track.replaced, track.seed, track.action, painter.seeds) == (10, None, action, [])


def test_clip_without_faces_unchanged(clip):
    clip = clip(5, actors=())
    assert clip.run().tracks == ()
    with av.open(str(clip.target)) as container:
        assert "comment" not in container.metadata  # nothing was generated
    with pytest.raises(VideoError, match="no face found"):
        clip.run(require_face=True, overwrite=True)


def test_existing_result_is_kept(clip):
    clip = clip(3)
    clip.target.parent.mkdir()
    clip.target.write_bytes(b"mine")
    with pytest.raises(VideoError, match="exists already"):
        clip.run()
    assert clip.target.read_bytes() == b"mine"


def test_pseudonyms_link_runs(tmp_path, clip, tiny, painter, key):
    clip = clip(8, actors=TWO)
    tiny.verifier = ByPlace()
    people = Pseudonyms(key, tmp_path / "people", recogniser="fake", dimension=4, threshold=0.9)
    runs = [clip.run(pseudonyms=people, overwrite=True).tracks for _ in range(2)]
    first, second = ([track.pseudonym for track in tracks] for tracks in runs)
    assert first == second
    assert len(set(first)) == 2
    assert all(track.seed is None for tracks in runs for track in tracks)
    assert painter.seeds[-1] == painter.seeds[7 + 2]  # last frame of both runs; two faces were chosen before
    assert all(painter.keyed)
    assert [faces for _, faces in people.people()] == [2, 2]  # a face per run, however many frames


class ByPlace(FakeVerifier):
    """Recognises people by the side of the picture on which they are."""

    def reference(self, photo, face):
        x0, _, x1, _ = face.detection.box
        vector = np.eye(4, dtype=np.float32)[int(x0 + x1 > 370)]
        return replace(super().reference(photo, face), embedding=vector)

    def verify(self, picture, face, original):
        return VerificationResult(0.2, None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_run_is_resumed(clip, painter, monkeypatch):
    clip = clip(20)
    child = multiprocessing.get_context("fork").Process(target=_hang_in_third_chunk, args=(clip, painter))
    child.start()
    segments: list[Path] = []
    while child.is_alive() and not segments:
        time.sleep(0.01)
        segments = list(clip.target.parent.glob(".a.mp4.deid-*/segment-00001.mkv"))
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert not clip.target.exists()
    checkpoint = segments[0].parent
    times = {path.name: path.stat().st_mtime_ns for path in checkpoint.glob("segment-*.mkv")}
    assert sorted(times) == ["segment-00000.mkv", "segment-00001.mkv"]
    assert checkpoint.stat().st_mode & 0o077 == 0

    from deid_diffusion.video import anonymize

    join, joined = anonymize.join, {}

    def record_times(reader, paths, *arguments, **options):
        joined.update({path.name: path.stat().st_mtime_ns for path in paths})
        join(reader, paths, *arguments, **options)

    monkeypatch.setattr(anonymize, "join", record_times)
    clip.model.detector.calls.clear()
    (track,) = clip.run().tracks
    assert {name: joined[name] for name in times} == times
    assert len(painter.seeds) == 4  # the third chunk alone
    assert clip.model.detector.calls == list(range(16, 20))  # and its residual scan
    assert {seeds[0] for seeds in painter.seeds} == {track.seed}
    assert track.replaced == 20
    assert clip.bare() == []
    assert packets(clip.source) == packets(clip.target)


def _hang_in_third_chunk(clip: Clip, painter: Painter) -> None:
    torch.set_num_threads(1)
    paint, calls = painter.paint, count()

    def hang(seed: int, size: int) -> np.ndarray:
        if next(calls) > 1 + 2 * 8:  # a face was chosen, and two chunks were painted
            time.sleep(1000)
        return paint(seed, size)

    painter.paint = hang
    clip.run()


def test_other_options_start_anew(clip, monkeypatch):
    clip = clip(4)
    with monkeypatch.context() as patch:
        break_stage(patch, "deid_diffusion.video.anonymize.join", VideoError("out of luck"), 0)
        for options in ({}, {"num_inference_steps": 3}):
            with pytest.raises(VideoError, match="out of luck"):
                clip.run(**options)
    assert len(list(clip.target.parent.glob(".a.mp4.deid-*"))) == 2
    clip.run(num_inference_steps=3)
    assert list(clip.target.parent.iterdir()) == [clip.target]


def test_builtin_model(tmp_path, anonymizer):
    """A real face, detector and verifier: another person, and the same from frame to frame."""
    from deid_diffusion.faces.detectors import CenterFaceDetector
    from deid_diffusion.identity.recognition import DlibRecogniser

    shown = scene(8, (160, 120), (Actor(side=110, start=(4, 4), stop=(40, 4)),))
    detector, recognise = CenterFaceDetector(), DlibRecogniser()
    model = Anonymizer(anonymizer.pipeline, detector=detector, verifier=anonymizer.verifier)
    clip = Clip(shown, write(tmp_path / "a.mp4", shown.frames), model)
    (track,) = clip.run(seed=7).tracks
    assert clip.bare() == []
    assert track.replaced == 8, track.reasons
    vectors = [recognise(frame, detector(frame)[0].points) for frame in clip.frames()]
    assert min(float(a @ b) for a, b in pairwise(vectors)) > DlibRecogniser.threshold
