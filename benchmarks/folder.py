"""De-identify a folder of photos and measure coverage, loss outside the masks, speed and memory; with judge networks at
hand, also whether faces are still found and how like the original they are.

    python benchmarks/folder.py PHOTOS -o RESULTS [--detector yunet.onnx] [--recogniser reid.xml] [--seed 0]

The judges are networks that the product never uses: a YuNet ONNX file for ``cv2.FaceDetectorYN`` and an OpenVINO
recogniser of (1, 3, 128, 128) BGR faces aligned by five points (needs the ``openvino`` package). Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from deid_diffusion.anonymizer import AnonymizedImage, Anonymizer
from deid_diffusion.faces.analysis import FaceAnalysis
from deid_diffusion.faces.masks import box_mask, union_mask
from deid_diffusion.io import images
from deid_diffusion.options import Options

#: Where the recogniser wants eyes, nose and mouth corners, as shares of its 128 px input (Open Model Zoo's reid-0095).
ALIGNED = np.array(
    [(0.3156, 0.4616), (0.6826, 0.4616), (0.5003, 0.6405), (0.3495, 0.8247), (0.6534, 0.8232)], np.float32
)
SAME_PERSON = 0.401
"""Cosine over which that recogniser takes two photos for one person at a false match rate of 1e-3 (grey LFW pairs)."""


class Detector:
    """YuNet on a (H, W, 3) uint8 RGB picture."""

    def __init__(self, path: Path) -> None:
        self._net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), 0.5, 0.3, 500)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """(N, 15): x, y, width, height, five points, score."""
        k = min(1.0, 640 / max(picture.shape[:2]))
        small = cv2.resize(picture[..., ::-1], None, fx=k, fy=k, interpolation=cv2.INTER_AREA)
        self._net.setInputSize(small.shape[1::-1])
        found = self._net.detect(small)[1]
        if found is None:
            return np.zeros((0, 15), np.float32)
        return found / np.array([k] * 14 + [1], np.float32)


class Recogniser:
    """Unit embeddings of faces at given points."""

    def __init__(self, path: Path) -> None:
        import openvino

        self._net = openvino.Core().compile_model(str(path), "CPU")

    def __call__(self, picture: np.ndarray, points: np.ndarray) -> np.ndarray:
        matrix, _ = cv2.estimateAffinePartial2D(points.astype(np.float32), ALIGNED * 128, method=cv2.LMEDS)
        crop = cv2.warpAffine(picture[..., ::-1], matrix, (128, 128), borderMode=cv2.BORDER_REPLICATE)
        vector = self._net(crop.transpose(2, 0, 1)[None].astype(np.float32))[0].reshape(-1)
        return vector / np.linalg.norm(vector)


def near(found: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray | None:
    """The detection whose centre lies within 0.4 widths of a box's centre, or None."""
    centre, width = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]), box[2] - box[0]
    away = np.linalg.norm(found[:, :2] + found[:, 2:4] / 2 - centre, axis=1)
    return found[away.argmin()] if len(found) and away.min() < 0.4 * width else None


def outside_difference(
    photo: np.ndarray, result: np.ndarray, made: AnonymizedImage, faces: tuple[FaceAnalysis, ...]
) -> int:
    """Largest change of a value outside every mask, and outside the boxes that only the second look covered."""
    shape = (photo.shape[0], photo.shape[1])
    known = [face.detection.box for face in faces]
    late = [box_mask(face.box, shape) for face in made.faces if face.box not in known]
    outside = ~union_mask(shape, [*(face.mask for face in faces), *late])
    return int(np.abs(photo.astype(int) - result)[outside].max(initial=0))


def judge(
    photo: np.ndarray, result: np.ndarray, made: AnonymizedImage, detector: Detector, recogniser: Recogniser | None
) -> list[dict[str, float]]:
    """One row a replaced face that the judge's detector finds in the original."""
    before, after, rows = detector(photo), detector(result), []
    for face in made.faces:
        original = near(before, face.box)
        if face.action != "replaced" or original is None:
            continue
        again = near(after, face.box)
        row = {"found": float(again is not None)}
        if recogniser is not None:
            seen = again if again is not None else original
            row["cosine"] = float(
                recogniser(photo, original[4:14].reshape(5, 2)) @ recogniser(result, seen[4:14].reshape(5, 2))
            )
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
    parser.add_argument("--attempts", type=int, default=Options().attempts)
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
        begun = time.perf_counter()
        made = anonymizer(photo, Options(seed=args.seed, num_inference_steps=args.steps, num_candidates=args.attempts))
        result = np.asarray(made.image)
        if made.faces and not first:
            first = time.perf_counter() - started
        elif made.faces:
            seconds.append((time.perf_counter() - begun) / len(made.faces))
        images.write(args.out / f"{path.stem}.png", result, overwrite=True)
        actions += [face.action for face in made.faces]
        attempts += [face.attempts for face in made.faces]
        reasons += [face.reason for face in made.faces if face.reason]
        if made.faces:
            area = [(f.box[2] - f.box[0]) * (f.box[3] - f.box[1]) for f in made.faces]
            largest.append(made.faces[int(np.argmax(area))].action == "replaced")
        else:
            largest.append(False)
        outside = max(outside, outside_difference(photo, result, made, anonymizer.analyse(photo)))
        if detector is not None:
            rows += judge(photo, result, made, detector, recogniser)
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
        "judged_faces": len(rows),
        "face_found_again": float(np.mean([row["found"] for row in rows])) if rows else None,
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
