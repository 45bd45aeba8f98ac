"""What the gate costs: each photo is de-identified with it and without it, side by side.

    python benchmarks/gate.py PHOTOS --limit 60

Without it, the same program runs with a judge that lets everything pass at once. Photos go in groups of eight, whose
faces share batches, as in a run of the command. Prints JSON: seconds a face (medians over groups), the share that the
gate adds, and the share of faces for which it asked for further candidates.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.faces.analysis import FaceAnalysis
from deid_diffusion.identity.verification import FaceReference, VerificationResult
from deid_diffusion.io import images
from deid_diffusion.options import Options
from deid_diffusion.results import FaceRecord

GROUP = 8  # photos


class OpenGate:
    """Looks at nothing and lets everything pass."""

    description = "none"

    def reference(self, photo: np.ndarray, face: FaceAnalysis) -> FaceReference:
        return FaceReference(None, None, None, 0)

    def verify(self, picture: np.ndarray, face: FaceAnalysis, original: FaceReference) -> VerificationResult:
        return VerificationResult(None, None)


def anonymize(model: Anonymizer, photos: Sequence[np.ndarray], options: Options) -> list[FaceRecord]:
    """The faces of some photos that share batches, as those of a run do."""
    return [face for faces in model(photos, options).faces for face in faces]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--limit", type=int, default=60)
    args = parser.parse_args()
    guarded = Anonymizer.from_pretrained(args.model)
    parts = {"detector": guarded.detector, "landmarker": guarded.landmarker, "verifier": OpenGate()}
    models = {"with": guarded, "without": Anonymizer(guarded.pipeline, **parts)}
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    faces = tried = 0
    paths = sorted(p for p in args.photos.iterdir() if p.suffix.lower() in images.READABLE)[: args.limit]
    for index in range(0, len(paths), GROUP):
        photos = [images.read(path).pixels for path in paths[index : index + GROUP]]
        for name in list(models)[:: 1 if index // GROUP % 2 else -1]:
            begun = time.perf_counter()
            found = anonymize(models[name], photos, Options(seed=index))
            if index and found:  # the first photos warm up
                seconds[name].append((time.perf_counter() - begun) / len(found))
            if name == "with":
                faces, tried = faces + len(found), tried + sum(one.attempts > 1 for one in found)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    sums = {name: float(np.sum(values)) for name, values in seconds.items()}
    figures = {
        "photos": len(paths),
        "faces": faces,
        "tried_again": tried / faces,
        "seconds_a_face_with": medians["with"],
        "seconds_a_face_without": medians["without"],
        "added_median": medians["with"] / medians["without"] - 1,
        "added_mean": sums["with"] / sums["without"] - 1,
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
