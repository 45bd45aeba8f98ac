"""Attack de-identified photos with an independent recogniser, and measure the conditioning's leakage.

    python benchmarks/attacks.py --originals PHOTOS --results RESULTS --recogniser reid.xml --detector yunet.onnx
    python benchmarks/attacks.py --originals PHOTOS --leakage [--keep none --keep expression,pose ...]

Both folders hold photos of the same names (PERSON_NUMBER.jpg; results may have another suffix). The evaluators are
those of ``benchmarks/openvino_evaluators.py``: YuNet, which also supplies the points, and a recogniser. Attacks are
those of ``deid-diffusion evaluate --attacks-only``.

--leakage measures how well people can be told apart by the generator's inputs, separately for every --keep: attribute
tokens, semantic map (the control image), the mesh that it is drawn from (an upper bound for any map), and light with
sharpness and teeth. All are taken before another person's proportions are applied. --limit takes the first people
only. Needs scikit-learn. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from leakage import attribute_tokens, measure_leakage
from openvino_evaluators import Detector, NoMesh, Recogniser

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.attributes.selection import AttributeSelection, make_selection, parse_keep
from deid_diffusion.errors import DeidError, one_line
from deid_diffusion.evaluation.evaluate import evaluate
from deid_diffusion.evaluation.measure import Evaluators
from deid_diffusion.evaluation.pairing import Pair, largest, match_folders, with_people
from deid_diffusion.faces.analysis import analyse_face
from deid_diffusion.faces.face import Face, PreparedImage
from deid_diffusion.faces.semantic_map import control_image, draw_semantic_map
from deid_diffusion.generation import GeneratorInput, prepare_inputs
from deid_diffusion.io import images
from deid_diffusion.options import Options

KINDS = ("attribute tokens", "semantic map", "mesh", "light and teeth")
MAP_SIZE = 32  # side to which control images are reduced: fewer features, and still wide enough for an iris


def conditioning(
    anonymizer: Anonymizer, photo: np.ndarray, choices: Sequence[AttributeSelection]
) -> list[tuple[np.ndarray, ...]] | None:
    """Return, per choice, the inputs of a photo's largest face: a row per item of `KINDS`; None without a mesh."""
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
    tokens = attribute_tokens(
        pipeline.attribute_adapter, torch.stack([part.features for part in inputs if part.features is not None])
    )
    maps = [control_image(draw_semantic_map(part.mesh, pipeline.crop_size)) for part in inputs]
    small = [cv2.resize(map_, (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_AREA).reshape(-1) / 255 for map_ in maps]
    meshes = [part.mesh.reshape(-1) / pipeline.crop_size for part in inputs]
    numbers = [np.concatenate([part.light.coefficients.ravel(), *_further_numbers(part)]) for part in inputs]
    return list(zip(tokens, small, meshes, numbers, strict=True))


def _further_numbers(part: GeneratorInput) -> tuple[list[float], list[float]]:
    """Return sharpness and teeth; 0 where they are unknown or not kept."""
    teeth = part.teeth
    return (
        [0.0 if part.camera is None else part.camera.detail],
        [0.0] * 5 if teeth is None else [teeth.brightness, teeth.extent, *teeth.colour],
    )


def leakage(model: str, device: str, pairs: Sequence[Pair], keep: Sequence[str]) -> dict[str, Any]:
    """Measure the leakage of all `KINDS`, for several values of --keep."""
    choices = [make_selection(parse_keep([text])) for text in keep]
    anonymizer = Anonymizer.from_pretrained(model, device=device)
    if anonymizer.pipeline.attribute_adapter is None or not anonymizer.pipeline.reads_attributes:
        raise DeidError(f"model {model}: has no attribute tokens: --leakage needs image_encoder and attribute_adapter")
    anonymizer.check(Options(), choices)
    rows = [(pair.person, conditioning(anonymizer, images.read(pair.original).pixels, choices)) for pair in pairs]
    known = [(person, row) for person, row in rows if row is not None]
    figures = [
        {
            "keep": text,
            **asdict(measure_leakage(kind, np.array([row[k][n] for _, row in known]), [person for person, _ in known])),
        }
        for k, text in enumerate(keep)
        for n, kind in enumerate(KINDS)
    ]
    return {"without_mesh": len(rows) - len(known), "leakage": figures}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    matching = with_people(match_folders(args.originals, args.results or args.originals), args.people, None)
    people = sorted({pair.person for pair in matching.pairs})[: args.limit]
    matching = replace(matching, pairs=tuple(pair for pair in matching.pairs if pair.person in people))
    figures: dict[str, Any] = {}
    if args.results is not None:
        evaluators = Evaluators(Detector(args.detector), NoMesh(), (Recogniser(args.recogniser),))
        evaluation = evaluate(matching, evaluators, {"recogniser": Recogniser.name}, attacks_only=True)
        figures |= {"notes": evaluation.notes, "sections": [asdict(section) for section in evaluation.sections]}
    if args.leakage:
        figures |= leakage(args.model, args.device, matching.pairs, args.keep or ["all"])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--originals", type=Path, required=True)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--recogniser", type=Path)
    parser.add_argument("--detector", type=Path)
    parser.add_argument("--people", help="regular expression whose group is the person in a photo's name")
    parser.add_argument("--limit", type=int, help="number of people")
    parser.add_argument("--leakage", action="store_true")
    parser.add_argument(
        "--keep",
        action="append",
        metavar="NAMES",
        help="as for anonymize; may be repeated, values are measured separately (default: all)",
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    attacking = args.results is not None
    if not attacking and not args.leakage:
        parser.error("nothing to do: name --results, or pass --leakage")
    if args.keep and not args.leakage:
        parser.error("--keep requires --leakage")
    if attacking and not (args.recogniser and args.detector):
        parser.error("--results requires --recogniser and --detector")
    try:
        figures = measure(args)
    except (DeidError, ValueError) as error:
        parser.error(one_line(error))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
