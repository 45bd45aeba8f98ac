"""De-identify a clip of moving synthetic faces and measure the guarantees for clips.

Those are: no frame with an original face, even if detection fails for three frames; the same new face throughout; the
same sound, number of frames and duration; memory independent of the clip's length.

    python benchmarks/video.py [--seconds 20] [--recogniser reid.xml] [-o FOLDER]

The clip is generated from ``docs/synthetic.jpg`` like those of the tests, so all positions are known. The recogniser is
that of ``openvino_evaluators.py``; without it dlib's is used, which also verifies the results. Prints JSON. On two CPU
cores, 20 s take about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from openvino_evaluators import Recogniser

from deid_diffusion.evaluation.pairing import nearest
from deid_diffusion.faces.boxes import Detection, FaceDetector
from deid_diffusion.faces.detection import EnsembleDetector
from deid_diffusion.faces.detectors import CenterFaceDetector
from deid_diffusion.identity.recognition import DlibRecogniser
from deid_diffusion.io.video import open_clip

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.video.clips import FACE, Actor, Scene, bare, number_of, packets, read, scene, write

RATE = 25
SIZE = (320, 240)
ACTORS = (Actor(side=120, start=(5, 60), stop=(70, 90)), Actor((1, 5), 100, (215, 10), (200, 110)))
DROP_OUT = 3  # frames without detections in the middle of the clip

Recognise = Callable[[np.ndarray, np.ndarray], np.ndarray]


class FailingDetector:
    """Detector without detections in some frames."""

    def __init__(self, detector: FaceDetector, blind: range) -> None:
        self.detector, self.blind = detector, blind

    def __call__(self, image: np.ndarray) -> list[Detection]:
        return [] if number_of(image) in self.blind else self.detector(image)


def work(source: Path, target: Path, frames: int, model: str, device: str) -> dict[str, object]:
    """De-identify a clip in this process; return records, seconds and peak memory in GB."""
    from deid_diffusion.anonymizer import Anonymizer
    from deid_diffusion.options import Options
    from deid_diffusion.video.anonymize import anonymize_clip

    anonymizer = Anonymizer.from_pretrained(model, device=device)
    anonymizer.detector = FailingDetector(EnsembleDetector(), range(frames // 2, frames // 2 + DROP_OUT))
    start = time.perf_counter()
    record = anonymize_clip(anonymizer, open_clip(source), target, Options(), overwrite=True)
    return {
        "tracks": [asdict(track) for track in record.tracks],
        "missed": record.missed,
        "seconds": round(time.perf_counter() - start, 1),
        "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def alone(source: Path, target: Path, frames: int, model: str, device: str) -> dict[str, object]:
    """Run `work` in a separate process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        return other.submit(work, source, target, frames, model, device).result()


def embeddings(clip: Scene, frames: list[np.ndarray], actor: int, recognise: Recognise) -> list[np.ndarray | None]:
    """Embed an actor's face in all frames; None if it is not detected."""
    detector = CenterFaceDetector()
    vectors: list[np.ndarray | None] = []
    for number, picture in enumerate(frames):
        box = clip.box(number, actor, FACE)
        assert box is not None
        face = nearest(detector(picture), np.array(box))
        vectors.append(None if face is None or face.points is None else recognise(picture, face.points))
    return vectors


def cosines(pairs: Iterable[tuple[np.ndarray | None, np.ndarray | None]]) -> dict[str, float]:
    """Return the number of pairs with both embeddings, and minimum, median and maximum of their cosines."""
    known = [float(a @ b) for a, b in pairs if a is not None and b is not None]
    return {"pairs": len(known), "least": min(known), "median": float(np.median(known)), "most": max(known)}


def measure(clip: Scene, source: Path, target: Path, recognise: Recognise) -> dict[str, object]:
    """Measure the guarantees on a result."""
    before, after = read(source), read(target)
    clips = [open_clip(path) for path in (source, target)]
    actors = [
        [embeddings(clip, frames, actor, recognise) for frames in (before, after)] for actor in range(len(ACTORS))
    ]
    return {
        "frames": [len(before), len(after)],
        "duration": [float((video.duration or 0) * video.time_base) for video in clips],
        "frames_with_an_original_face": len({number for number, _ in bare(clip, after)}),
        "frames_with_one_in_the_input": len({number for number, _ in bare(clip, before)}),
        "sound_identical": packets(source) == packets(target),
        "cosine_adjacent_frames": [cosines(pairwise(after)) for _, after in actors],
        "cosine_adjacent_frames_of_the_input": [cosines(pairwise(before)) for before, _ in actors],
        "cosine_input_and_result": [cosines(zip(before, after, strict=True)) for before, after in actors],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--recogniser", type=Path)
    parser.add_argument("-o", "--out", type=Path, help="keep the clips here")
    args = parser.parse_args()
    recognise = Recogniser(args.recogniser) if args.recogniser else DlibRecogniser()
    with tempfile.TemporaryDirectory() as temporary:
        base = args.out or Path(temporary)
        base.mkdir(parents=True, exist_ok=True)
        frames = round(args.seconds * RATE)
        clip = scene(frames, SIZE, ACTORS)
        source, target, part = (base / name for name in ("original.mp4", "result.mp4", "quarter.mp4"))
        quarter = write(base / "quarter_original.mp4", clip.frames[: frames // 4])
        small = alone(quarter, part, frames, args.model, args.device)
        complete = alone(write(source, clip.frames), target, frames, args.model, args.device)
        report = {
            **measure(clip, source, target, recognise),
            "recogniser": args.recogniser.stem if args.recogniser else "dlib-resnet",
            "memory_gb": {"quarter": small["memory_gb"], "complete": complete["memory_gb"]},
            "seconds_per_frame": complete["seconds"] / frames,
            "missed": complete["missed"],
            "tracks": complete["tracks"],
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
