"""Measure the cost of verification: every photo is de-identified with and without it.

    python benchmarks/gate.py PHOTOS --limit 60

The alternative is a verifier that accepts everything. Photos are processed in groups of eight, whose faces share
batches, as in a run of the command. Prints JSON: seconds per face (medians over groups), the share that verification
adds, and the share of faces that needed more than one candidate.
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


class AcceptAll:
    """`FaceVerifier` that accepts every candidate."""

    description = "none"

    def reference(self, photo: np.ndarray, face: FaceAnalysis) -> FaceReference:
        return FaceReference(None, None, None, 0)

    def verify(self, picture: np.ndarray, face: FaceAnalysis, original: FaceReference) -> VerificationResult:
        return VerificationResult(None, None)


def anonymize(model: Anonymizer, photos: Sequence[np.ndarray], options: Options) -> list[FaceRecord]:
    """Return the faces of photos that share batches, as those of a run do."""
    return [face for faces in model(photos, options).faces for face in faces]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--limit", type=int, default=60)
    args = parser.parse_args()
    guarded = Anonymizer.from_pretrained(args.model)
    unguarded = Anonymizer(
        guarded.pipeline, detector=guarded.detector, landmarker=guarded.landmarker, verifier=AcceptAll()
    )
    models = {"with": guarded, "without": unguarded}
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    faces = retried = 0
    paths = sorted(p for p in args.photos.iterdir() if p.suffix.lower() in images.READABLE)[: args.limit]
    for index in range(0, len(paths), GROUP):
        photos = [images.read(path).pixels for path in paths[index : index + GROUP]]
        for name in list(models)[:: 1 if index // GROUP % 2 else -1]:
            start = time.perf_counter()
            records = anonymize(models[name], photos, Options(seed=index))
            if index and records:  # the first group warms up
                seconds[name].append((time.perf_counter() - start) / len(records))
            if name == "with":
                faces, retried = faces + len(records), retried + sum(record.attempts > 1 for record in records)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    sums = {name: float(np.sum(values)) for name, values in seconds.items()}
    figures = {
        "photos": len(paths),
        "faces": faces,
        "retried": retried / faces,
        "seconds_per_face_with": medians["with"],
        "seconds_per_face_without": medians["without"],
        "added_median": medians["with"] / medians["without"] - 1,
        "added_mean": sums["with"] / sums["without"] - 1,
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
