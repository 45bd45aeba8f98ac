"""What the gate costs: each photo is de-identified with it and without it, side by side.

    python benchmarks/gate.py PHOTOS --limit 60

Without it, the same program runs with a judge that lets everything pass at once. Prints JSON: seconds a face (medians
over photos), and the share that the gate adds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from deid_diffusion import images
from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.faces.analysis import FaceAnalysis
from deid_diffusion.identity.verify import Reference, Verdict
from deid_diffusion.options import Options


class OpenGate:
    """Looks at nothing and lets everything pass."""

    description = "none"

    def look(self, photo: np.ndarray, face: FaceAnalysis) -> Reference:
        return Reference(None, None, None, 0)

    def judge(self, picture: np.ndarray, face: FaceAnalysis, original: Reference) -> Verdict:
        return Verdict(None, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--limit", type=int, default=60)
    args = parser.parse_args()
    guarded = Anonymizer.from_pretrained(args.model)
    parts = {"detector": guarded.detector, "landmarker": guarded.landmarker, "gate": OpenGate()}
    models = {"with": guarded, "without": Anonymizer(guarded.pipeline, **parts)}
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    faces = 0
    paths = sorted(p for p in args.photos.iterdir() if p.suffix.lower() in images.READABLE)[: args.limit]
    for index, path in enumerate(paths):
        photo = images.read(path).pixels
        order = list(models)[:: 1 if index % 2 else -1]
        for name in order:
            begun = time.perf_counter()
            found = len(models[name](photo, Options(seed=index)).faces)
            if index and found:  # the first photo warms up
                seconds[name].append((time.perf_counter() - begun) / found)
        faces += found
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    sums = {name: float(np.sum(values)) for name, values in seconds.items()}
    figures = {
        "photos": len(paths),
        "faces": faces,
        "seconds_a_face_with": medians["with"],
        "seconds_a_face_without": medians["without"],
        "added_median": medians["with"] / medians["without"] - 1,
        "added_mean": sums["with"] / sums["without"] - 1,
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
