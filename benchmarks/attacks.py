"""Attack de-identified photos with a recogniser that the product never uses, and the conditioning by itself.

    python benchmarks/attacks.py --originals PHOTOS --results RESULTS --recogniser reid.xml --detector yunet.onnx
    python benchmarks/attacks.py --originals PHOTOS --leakage [--keep none --keep expression,pose ...]

Both folders hold photos of the same names (PERSON_NUMBER.jpg; results may have another suffix). Judges as in
``benchmarks/folder.py``: a YuNet ONNX file, which also gives the points, and an OpenVINO recogniser (needs the
``openvino`` package).

--leakage asks how well people can be told apart by what the generator is told of a face, for each --keep by itself: the
adapter's tokens of what that choice lets through, the semantic map (its control image), as the most that a map could
tell the mesh that it is drawn from, and the light with the sharpness. All are taken before another person's
proportions are drawn. --limit takes the first people only, for a quick look. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import folder as judges
import numpy as np
import torch
from leakage import attribute_tokens, measure_leakage

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.attributes.selection import AttributeSelection, make_selection, parse_keep
from deid_diffusion.cli.evaluate import judge
from deid_diffusion.errors import DeidError, one_line
from deid_diffusion.evaluation.attacks import embed_pairs
from deid_diffusion.evaluation.pairing import Pair, largest, match_people
from deid_diffusion.faces.analysis import analyse_face
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.face import Face, PreparedImage
from deid_diffusion.faces.semantic_map import control_image, draw_semantic_map
from deid_diffusion.generation import prepare_inputs
from deid_diffusion.io import images
from deid_diffusion.options import Options

KINDS = ("attribute tokens", "semantic map", "mesh", "light")
MAP_SIZE = 32  # side to which control images are shrunk: fewer numbers to learn from, nothing wider than an iris lost


class Detector:
    """The judge's detector as a `FaceDetector`."""

    def __init__(self, path: Path) -> None:
        self._detector = judges.Detector(path)

    def __call__(self, image: np.ndarray) -> list[Detection]:
        return [
            Detection((x, y, x + w, y + h), score, "yunet", np.array(points, np.float32).reshape(5, 2))
            for x, y, w, h, *points, score in self._detector(image).tolist()
        ]


class Recogniser(judges.Recogniser):
    """The judge's recogniser as a `Recogniser`."""

    name = "face-reidentification-retail-0095"
    threshold = judges.SAME_PERSON


def read(pairs: Sequence[Pair]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for pair in pairs:
        yield images.read(pair.original).pixels, images.read(pair.result).pixels


def conditioning(
    anonymizer: Anonymizer, photo: np.ndarray, choices: Sequence[AttributeSelection]
) -> list[tuple[np.ndarray, ...]] | None:
    """What each choice tells of a photo's largest face, one row of numbers for each of `KINDS`; None without a mesh."""
    pipeline, detection = anonymizer.pipeline, largest(anonymizer.detector(photo))
    if detection is None:
        return None
    analysis = analyse_face(photo, detection, anonymizer.landmarker, pipeline.crop_size)
    if analysis.mesh is None:
        return None
    image = PreparedImage(photo)
    image.faces.append(Face(image, 0, detection, choices[0], analysis.mask, analysis))
    image.mask_faces()
    inputs = prepare_inputs(pipeline, [replace(image.faces[0], selection=choice) for choice in choices])
    tokens = attribute_tokens(pipeline.attribute_adapter, torch.stack([part.features for part in inputs]))
    maps = [control_image(draw_semantic_map(part.mesh, pipeline.crop_size)) for part in inputs]
    small = [cv2.resize(map_, (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_AREA).reshape(-1) / 255 for map_ in maps]
    meshes = [part.mesh.reshape(-1) / pipeline.crop_size for part in inputs]
    lights = [np.append(part.light.coefficients, 0.0 if part.camera is None else part.camera.detail) for part in inputs]
    return list(zip(tokens, small, meshes, lights, strict=True))


def leakage(model: str, device: str, pairs: Sequence[Pair], keep: Sequence[str]) -> dict[str, Any]:
    """The figures of each of `KINDS`, for each of some texts that say what is kept."""
    choices = [make_selection(parse_keep([text])) for text in keep]
    anonymizer = Anonymizer.from_pretrained(model, device=device)
    if anonymizer.pipeline.attribute_adapter is None or not anonymizer.pipeline.reads_attributes:
        raise DeidError(f"model {model}: makes no tokens: --leakage takes one with image_encoder and attribute_adapter")
    anonymizer.check(Options(), choices)
    rows = [(pair.person, conditioning(anonymizer, images.read(pair.original).pixels, choices)) for pair in pairs]
    told = [(person, row) for person, row in rows if row is not None]
    found = [
        {
            "keep": text,
            **asdict(measure_leakage(kind, np.array([row[k][n] for _, row in told]), [person for person, _ in told])),
        }
        for k, text in enumerate(keep)
        for n, kind in enumerate(KINDS)
    ]
    return {"without_mesh": len(rows) - len(told), "leakage": found}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    matching = match_people(args.originals, args.results or args.originals, args.people)
    chosen = sorted({pair.person for pair in matching.pairs})[: args.limit]
    pairs = [pair for pair in matching.pairs if pair.person in chosen]
    figures: dict[str, Any] = {"left_out": len(matching.without_result) + len(matching.without_original)}
    if args.results is not None:
        recogniser = Recogniser(args.recogniser)
        people = [pair.person for pair in pairs]
        detector = Detector(args.detector)
        collection = embed_pairs(people, read(pairs), detector, recogniser, known_place=args.known_place)
        report = judge(collection, recogniser.threshold)
        figures |= {"recogniser": recogniser.name, "known_place": args.known_place, **asdict(report)}
    if args.leakage:
        figures |= leakage(args.model, args.device, pairs, args.keep or ["all"])
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
    parser.add_argument(
        "--keep",
        action="append",
        metavar="NAMES",
        help="as for anonymize; each --keep is measured by itself (default: all)",
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    attacking = args.results is not None
    if not attacking and not args.leakage:
        parser.error("nothing to do: name --results, or pass --leakage")
    if args.keep and not args.leakage:
        parser.error("--keep: is of use with --leakage only")
    if attacking and not (args.recogniser and args.detector):
        parser.error("--results needs the judges: name --recogniser and --detector")
    try:
        figures = measure(args)
    except (DeidError, ValueError) as error:
        parser.error(one_line(error))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
