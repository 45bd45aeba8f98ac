"""De-identify a clip of invented faces that move over a background, and measure what its result must hold: no frame
with an original face, also where the detector drops out for three frames; one face a person from frame to frame; the
same sound, number of frames and duration; memory that does not grow with length.

    python benchmarks/video.py [--seconds 20] [--recogniser reid.xml] [-o FOLDER]

The clip is made from ``docs/synthetic.jpg`` as the tests make theirs, so all positions are known. The recogniser is an
OpenVINO one that the product never uses (see ``folder.py``); without it dlib's is taken, which is also the gate's.
Prints JSON. On two CPU cores 20 s take about a quarter of an hour.
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

import folder as judges
import numpy as np

from deid_diffusion.faces.boxes import Detection, FaceDetector
from deid_diffusion.faces.detection import EnsembleDetector
from deid_diffusion.faces.detectors import CenterFaceDetector
from deid_diffusion.identity.recognition import DlibRecogniser
from deid_diffusion.io.video_reader import open_clip

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.video.clips import FACE, Actor, Scene, bare, number_of, packets, read, scene, write

RATE = 25
SIZE = (320, 240)
ACTORS = (Actor(side=120, start=(5, 60), stop=(70, 90)), Actor((1, 5), 100, (215, 10), (200, 110)))
DROP_OUT = 3  # frames in which nobody is detected, in the middle of the clip

Recognise = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Blinking:
    """A detector that sees nothing in some frames."""

    def __init__(self, detector: FaceDetector, blind: range) -> None:
        self.detector, self.blind = detector, blind

    def __call__(self, image: np.ndarray) -> list[Detection]:
        return [] if number_of(image) in self.blind else self.detector(image)


def work(source: Path, target: Path, frames: int, model: str, device: str) -> dict[str, object]:
    """De-identify a clip in this process: records, seconds, and GB of memory at most."""
    from deid_diffusion.anonymizer import Anonymizer
    from deid_diffusion.options import Options
    from deid_diffusion.video.anonymize import anonymize_clip

    anonymizer = Anonymizer.from_pretrained(model, device=device)
    anonymizer.detector = Blinking(EnsembleDetector(), range(frames // 2, frames // 2 + DROP_OUT))
    start = time.perf_counter()
    made = anonymize_clip(anonymizer, open_clip(source), target, Options(), overwrite=True)
    return {
        "tracks": [asdict(one) for one in made.tracks],
        "missed": made.missed,
        "seconds": round(time.perf_counter() - start, 1),
        "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def alone(source: Path, target: Path, frames: int, model: str, device: str) -> dict[str, object]:
    """As `work`, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        return other.submit(work, source, target, frames, model, device).result()


def embeddings(made: Scene, frames: list[np.ndarray], actor: int, recognise: Recognise) -> list[np.ndarray | None]:
    """Of an actor's face in each frame; None where it is not found."""
    detector = CenterFaceDetector()
    vectors: list[np.ndarray | None] = []
    for number, picture in enumerate(frames):
        box = made.box(number, actor, FACE)
        assert box is not None
        found = judges.near(np.array([_row(face) for face in detector(picture)]).reshape(-1, 14), box)
        vectors.append(None if found is None else recognise(picture, found[4:14].reshape(5, 2)))
    return vectors


def cosines(pairs: Iterable[tuple[np.ndarray | None, np.ndarray | None]]) -> dict[str, float]:
    """How many pairs are known, and the least, median and largest of their cosines."""
    known = [float(one @ other) for one, other in pairs if one is not None and other is not None]
    return {"pairs": len(known), "least": min(known), "median": float(np.median(known)), "most": max(known)}


def measure(made: Scene, source: Path, target: Path, recognise: Recognise) -> dict[str, object]:
    """What the result holds of what a clip's must."""
    before, after = read(source), read(target)
    clips = [open_clip(path) for path in (source, target)]
    seen = [[embeddings(made, frames, actor, recognise) for frames in (before, after)] for actor in range(len(ACTORS))]
    return {
        "frames": [len(before), len(after)],
        "duration": [float(one.duration * one.time_base) for one in clips],
        "frames_with_an_original_face": len({number for number, _ in bare(made, after)}),
        "frames_with_one_in_the_input": len({number for number, _ in bare(made, before)}),
        "sound_identical": packets(source) == packets(target),
        "cosine_adjacent_frames": [cosines(pairwise(after)) for _, after in seen],
        "cosine_adjacent_frames_of_the_input": [cosines(pairwise(before)) for before, _ in seen],
        "cosine_input_and_result": [cosines(zip(before, after, strict=True)) for before, after in seen],
    }


def _row(face: Detection) -> list[float]:
    """x, y, width, height, five points: as `folder.near` wants them."""
    x0, y0, x1, y1 = face.box
    points = np.zeros(10) if face.points is None else face.points.reshape(-1)
    return [x0, y0, x1 - x0, y1 - y0, *points.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--recogniser", type=Path)
    parser.add_argument("-o", "--out", type=Path, help="keep the clips here")
    args = parser.parse_args()
    recognise = judges.Recogniser(args.recogniser) if args.recogniser else DlibRecogniser()
    with tempfile.TemporaryDirectory() as temporary:
        base = args.out or Path(temporary)
        base.mkdir(parents=True, exist_ok=True)
        frames = round(args.seconds * RATE)
        made = scene(frames, SIZE, ACTORS)
        source, target, part = (base / name for name in ("original.mp4", "result.mp4", "quarter.mp4"))
        quarter = write(base / "quarter_original.mp4", made.frames[: frames // 4])
        small = alone(quarter, part, frames, args.model, args.device)
        whole = alone(write(source, made.frames), target, frames, args.model, args.device)
        report = {
            **measure(made, source, target, recognise),
            "recogniser": args.recogniser.stem if args.recogniser else "dlib-resnet",
            "memory_gb": {"quarter": small["memory_gb"], "whole": whole["memory_gb"]},
            "seconds_a_frame": whole["seconds"] / frames,
            "missed": whole["missed"],
            "tracks": whole["tracks"],
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
