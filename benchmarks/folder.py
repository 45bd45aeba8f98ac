"""De-identify a folder of photos and measure coverage, changes outside the masks, speed and memory.

With independent evaluators, also whether faces are detected in the results, and how similar they are to the originals.

    python benchmarks/folder.py PHOTOS -o RESULTS [--detector yunet.onnx] [--recogniser reid.xml] [--seed 0]

The evaluators are those of ``benchmarks/openvino_evaluators.py``. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections import Counter
from pathlib import Path

import numpy as np
from openvino_evaluators import SAME_PERSON, Detector, Recogniser

from deid_diffusion.anonymizer import AnonymizedImage, Anonymizer
from deid_diffusion.evaluation.pairing import nearest
from deid_diffusion.faces.analysis import FaceAnalysis
from deid_diffusion.faces.masks import box_mask, union_mask
from deid_diffusion.io import images
from deid_diffusion.options import Options


def outside_difference(
    photo: np.ndarray, result: np.ndarray, output: AnonymizedImage, faces: tuple[FaceAnalysis, ...]
) -> int:
    """Return the largest change of a value outside all masks and the boxes covered by the re-scan."""
    shape = (photo.shape[0], photo.shape[1])
    known = [face.detection.box for face in faces]
    late = [box_mask(face.box, shape) for face in output.faces if face.box not in known]
    outside = ~union_mask(shape, [*(face.mask for face in faces), *late])
    return int(np.abs(photo.astype(int) - result)[outside].max(initial=0))


def measure(
    photo: np.ndarray, result: np.ndarray, output: AnonymizedImage, detector: Detector, recogniser: Recogniser | None
) -> list[dict[str, float]]:
    """Return a row for every replaced face that the detector finds in the original."""
    before, after, rows = detector(photo), detector(result), []
    for face in output.faces:
        original, new = nearest(before, np.array(face.box)), nearest(after, np.array(face.box))
        if face.action != "replaced" or original is None:
            continue
        row = {"detected": float(new is not None)}
        if recogniser is not None:
            place = original if new is None else new
            if original.points is not None and place.points is not None:
                row["cosine"] = float(recogniser(photo, original.points) @ recogniser(result, place.points))
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--num-candidates", type=int, default=Options().num_candidates)
    parser.add_argument("--detector", type=Path)
    parser.add_argument("--recogniser", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    detector = Detector(args.detector) if args.detector else None
    recogniser = Recogniser(args.recogniser) if args.recogniser else None

    started = time.perf_counter()
    anonymizer = Anonymizer.from_pretrained(args.model, device=args.device)
    first, seconds, actions, attempts, reasons, largest, outside, rows = 0.0, [], [], [], [], [], 0, []
    for path in sorted(p for p in args.photos.iterdir() if p.suffix.lower() in images.READABLE):
        photo = images.read(path).pixels
        start = time.perf_counter()
        output = anonymizer(
            photo, Options(seed=args.seed, num_inference_steps=args.steps, num_candidates=args.num_candidates)
        )
        result = np.asarray(output.image)
        if output.faces and not first:
            first = time.perf_counter() - started
        elif output.faces:
            seconds.append((time.perf_counter() - start) / len(output.faces))
        images.write(args.out / f"{path.stem}.png", result, overwrite=True)
        actions += [face.action for face in output.faces]
        attempts += [face.attempts for face in output.faces]
        reasons += [face.reason for face in output.faces if face.reason]
        areas = [(face.box[2] - face.box[0]) * (face.box[3] - face.box[1]) for face in output.faces]
        largest.append(bool(areas) and output.faces[int(np.argmax(areas))].action == "replaced")
        outside = max(outside, outside_difference(photo, result, output, anonymizer.analyse(photo)))
        if detector is not None:
            rows += measure(photo, result, output, detector, recogniser)
    cosines = np.array([row["cosine"] for row in rows if "cosine" in row])
    figures = {
        "photos": len(largest),
        "faces": len(actions),
        "replaced": actions.count("replaced"),
        "covered": actions.count("covered"),
        "passed_at_first_attempt": float(np.mean([count == 1 for count in attempts if count])),
        "reasons": dict(Counter(reasons).most_common(12)),
        "largest_face_replaced": float(np.mean(largest)),
        "outside_mask_max_difference": outside,
        "evaluated_faces": len(rows),
        "detected_in_result": float(np.mean([row["detected"] for row in rows])) if rows else None,
        "cosine_median": float(np.median(cosines)) if len(cosines) else None,
        "cosine_above_threshold": float((cosines > SAME_PERSON).mean()) if len(cosines) else None,
        "seconds_to_first_result": first,
        "seconds_per_face_median": float(np.median(seconds)) if seconds else None,
        "seconds_per_face_max": float(np.max(seconds)) if seconds else None,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
