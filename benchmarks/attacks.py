"""Attack de-identified photos with a recogniser that the product never uses, and the conditioning by itself.

    python benchmarks/attacks.py --originals PHOTOS --results RESULTS --recogniser reid.xml --detector yunet.onnx
    python benchmarks/attacks.py --originals PHOTOS --leakage

Both folders hold photos of the same names (PERSON_NUMBER.jpg; results may have another suffix). Judges as in
``benchmarks/folder.py``: a YuNet ONNX file, which also gives the points, and an OpenVINO recogniser (needs the
``openvino`` package).

--leakage asks how well people can be told apart by what the generator is told of a face: the attribute tokens (what the
adapter's bottleneck lets through), the semantic map (its control image), and, as the most that a map could tell, the
mesh that it is drawn from. --limit takes the first people only, for a quick look. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import folder as judges
import numpy as np
import torch

from deid_diffusion import images
from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.cli_attack import PhotoPair, judge, pair_photos
from deid_diffusion.errors import DeidError, one_line
from deid_diffusion.evaluation.attacks import embed_pairs, largest
from deid_diffusion.evaluation.leakage import bottleneck_features, measure_leakage
from deid_diffusion.faces.analysis import FaceAnalysis, analyse_face
from deid_diffusion.faces.crop import extract
from deid_diffusion.faces.detected_face import DetectedFace
from deid_diffusion.faces.semantic_map import control_image

MAP_SIZE = 32  # side to which control images are shrunk: fewer numbers to learn from, nothing wider than an iris lost


class Detector:
    """The judge's detector as a `FaceDetector`."""

    def __init__(self, path: Path) -> None:
        self._detector = judges.Detector(path)

    def __call__(self, image: np.ndarray) -> list[DetectedFace]:
        return [
            DetectedFace((x, y, x + w, y + h), score, "yunet", np.array(points, np.float32).reshape(5, 2))
            for x, y, w, h, *points, score in self._detector(image).tolist()
        ]


class Recogniser(judges.Recogniser):
    """The judge's recogniser as a `Recogniser`."""

    name = "face-reidentification-retail-0095"
    threshold = judges.SAME_PERSON


def read(pairs: list[PhotoPair]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for pair in pairs:
        yield images.read(pair.original).pixels, images.read(pair.result).pixels


def conditioning(anonymizer: Anonymizer, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Tokens, map and mesh of the largest face, one row of numbers each; None where there is no mesh."""
    face = largest(anonymizer.detector(photo))
    seen = None if face is None else analyse_face(photo, face, anonymizer.landmarker, anonymizer.pipeline.crop_size)
    if seen is None or seen.mesh is None:
        return None
    control = cv2.resize(control_image(seen.semantic_map), (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_AREA)
    return tokens(anonymizer, photo, seen), control.reshape(-1) / 255, seen.mesh.reshape(-1) / len(seen.semantic_map)


def tokens(anonymizer: Anonymizer, photo: np.ndarray, face: FaceAnalysis) -> np.ndarray:
    """(N * bottleneck_dim,) of one face."""
    pipeline = anonymizer.pipeline
    crop = torch.from_numpy(extract(photo, face.matrix, pipeline.crop_size)).permute(2, 0, 1)[None].float() / 255
    features = pipeline.encode_attributes(crop, [face.semantic_map])
    return bottleneck_features(pipeline.attribute_adapter, features)[0]


def leakage(model: str, device: str, pairs: list[PhotoPair]) -> dict[str, Any]:
    anonymizer = Anonymizer.from_pretrained(model, device=device)
    rows = [(pair.person, conditioning(anonymizer, images.read(pair.original).pixels)) for pair in pairs]
    people = [person for person, row in rows if row is not None]
    table = zip(*(row for _, row in rows if row is not None), strict=True)
    kinds = zip(("attribute tokens", "semantic map", "mesh"), table, strict=True)
    found = [asdict(measure_leakage(kind, np.stack(features), people)) for kind, features in kinds]
    return {"without_mesh": len(rows) - len(people), "leakage": found}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    pairs, left_out = pair_photos(args.originals, args.results or args.originals, args.people)
    chosen = sorted({pair.person for pair in pairs})[: args.limit]
    pairs = [pair for pair in pairs if pair.person in chosen]
    figures: dict[str, Any] = {"left_out": left_out}
    if args.results is not None:
        recogniser = Recogniser(args.recogniser)
        people = [pair.person for pair in pairs]
        detector = Detector(args.detector)
        collection = embed_pairs(people, read(pairs), detector, recogniser, known_place=args.known_place)
        report = judge(collection, recogniser.threshold)
        figures |= {"recogniser": recogniser.name, "known_place": args.known_place, **asdict(report)}
    if args.leakage:
        figures |= leakage(args.model, args.device, pairs)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--originals", type=Path, required=True)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--recogniser", type=Path)
    parser.add_argument("--detector", type=Path)
    parser.add_argument("--people", help="regular expression with one group that finds the person in a photo's name")
    parser.add_argument(
        "--known-place", action="store_true", help="look at the original's points where no face is found"
    )
    parser.add_argument("--limit", type=int, help="number of people")
    parser.add_argument("--leakage", action="store_true")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    attacking = args.results is not None
    if not attacking and not args.leakage:
        parser.error("nothing to do: name --results, or pass --leakage")
    if attacking and not (args.recogniser and args.detector):
        parser.error("--results needs the judges: name --recogniser and --detector")
    try:
        figures = measure(args)
    except (DeidError, ValueError) as error:
        parser.error(one_line(error))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
