r"""Measure the effect of every choice of --keep, and its price in privacy, against keeping nothing.

    python benchmarks/kept.py --people LFW --photos FAIRFACE -o RESULTS --detector yunet.onnx --recogniser reid.xml \
        --attributes age-gender.xml --pose head-pose.xml [--limit 60]

Folders and evaluators as in ``benchmarks/side_by_side.py``. All rows have the same seed, so they differ in what is
kept, not in the new identity. On --people, results are compared with another original of the person (threshold for a
false match rate of 1e-3 set on impostor pairs of originals); on both folders the largest face of every photo is
compared with its result. The last row is an ablation: everything is kept, but the map is the mean face's.

A difference is marked if the 95 % interval of the paired bootstrap over people excludes 0. --change FACES also measures
`--change` on the first FACES of --photos. Writes its part of --page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from benchmark_page import machine, put
from openvino_evaluators import (
    AgeGender,
    Detector,
    HeadPose,
    NoMesh,
    Recogniser,
    add_sets_and_evaluators,
    yaw_errors,
)
from side_by_side import Tool, evaluate_results, produce, result_folder

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.errors import DeidError, one_line
from deid_diffusion.evaluation.attacks import NAIVE
from deid_diffusion.evaluation.evaluate import Evaluation
from deid_diffusion.evaluation.measure import Evaluators, FaceMeasurement, measure_pair
from deid_diffusion.evaluation.pairing import Pair, match_folders
from deid_diffusion.evaluation.statistics import bootstrap_interval, format_interval, format_value
from deid_diffusion.evaluation.utility import age_error, kept, same_sex
from deid_diffusion.faces.landmarks import FaceMesh
from deid_diffusion.io import images
from deid_diffusion.options import Options

SEED = 7
NOTHING = "nothing"
ROWS = (
    Tool(NOTHING, Options(seed=SEED, keep=())),
    Tool("expression", Options(seed=SEED, keep=("expression",))),
    Tool("and pose", Options(seed=SEED, keep=("expression", "pose"))),
    Tool("and age", Options(seed=SEED, keep=("expression", "pose", "age"))),
    Tool("and gender", Options(seed=SEED, keep=("expression", "pose", "age", "gender"))),
    Tool("all", Options(seed=SEED)),
    Tool("all but the map", Options(seed=SEED, map_blend=1.0)),
)
CHANGES = (("gender", "man", "woman"), ("age", "70", "8"))
"""Attribute and two words; the reading of the first should be more male, or older."""

Value = Callable[[FaceMeasurement], float | None]


@dataclass(frozen=True)
class Column:
    """Column of the table: its name, and the value of a face, or None."""

    name: str
    value: Value


def _expression(face: FaceMeasurement) -> float | None:
    verdicts = kept(face, with_reader=False)
    parts = [verdicts[name] for name in ("smile", "mouth_open", "eyes_open") if name in verdicts]
    return float(all(parts)) if parts else None


def _sex(face: FaceMeasurement) -> float | None:
    return None if face.readings is None or face.readings[0].age < 18 else float(same_sex(*face.readings))


COLUMNS = (
    Column("expression kept", _expression),
    Column("smile error, mouth widths", lambda face: None if face.errors is None else face.errors.smile),
    Column("sex agrees, adults", _sex),
    Column("age error, years", lambda face: None if face.readings is None else age_error(*face.readings)),
)
YAW = "yaw error, degrees"


def measure_pairs(pairs: Sequence[Pair], evaluators: Evaluators, pose: HeadPose) -> dict[str, np.ndarray]:
    """Measure N photos: column name to N numbers, NaN if unknown."""
    faces = [
        measure_pair(pair, images.read(pair.original).pixels, images.read(pair.result).pixels, evaluators).face
        for pair in pairs
    ]
    columns: dict[str, Sequence[float | None]] = {
        column.name: [None if face is None else column.value(face) for face in faces] for column in COLUMNS
    }
    columns[YAW] = yaw_errors(pairs, evaluators.detector, pose)
    return {name: np.array([np.nan if v is None else v for v in values]) for name, values in columns.items()}


def cell(values: np.ndarray, base: np.ndarray, people: np.ndarray) -> str:
    """Format a row's mean, and its difference from the base on the photos known in both."""
    both = ~np.isnan(values) & ~np.isnan(base)
    difference = values[both] - base[both]
    low, high = bootstrap_interval(difference, people[both]) if np.ptp(difference) > 0 else (0.0, 0.0)
    mark = " *" if low > 0 or high < 0 else ""
    text = f"{np.nanmean(values):.3g}"
    return text if values is base else f"{text} ({difference.mean():+.2g}; {low:+.2g} to {high:+.2g}){mark}"


def table(rows: Mapping[str, Mapping[str, np.ndarray]], people: np.ndarray, tpr: Mapping[str, str]) -> str:
    """Format the rows as Markdown."""
    names = [*(column.name for column in COLUMNS), YAW]
    lines = [["kept", *names, "re-identified (naive TPR)"]]
    lines.append(["---"] * len(lines[0]))
    for name, row in rows.items():
        lines.append([name, *(cell(row[column], rows[NOTHING][column], people) for column in names), tpr[name]])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def changed(photos: Sequence[Path], out: Path, load: Callable[[str], Anonymizer], evaluators: Evaluators) -> list[str]:
    """Describe for all `CHANGES` in how many faces the reading moved in the requested direction."""
    lines = []
    for name, *words in CHANGES:
        tools = [Tool(f"{name} {word}", Options(seed=SEED, change={name: word})) for word in words]
        produce(tools, photos, out, load)
        readings = [readings_of(photos, result_folder(out, tool), evaluators, name) for tool in tools]
        moved = np.array([a - b for a, b in zip(*readings, strict=True) if a is not None and b is not None])
        lines.append(
            f"- `--change {name}={words[0]}` against `{name}={words[1]}`: the reading moved in the requested direction "
            f"in {(moved > 0).sum()} of {len(moved)} faces ({100 * (moved > 0).mean():.0f} %), by {moved.mean():.2f} "
            f"{'years' if name == 'age' else 'of the probability'} in the mean."
        )
    return lines


def readings_of(photos: Sequence[Path], results: Path, evaluators: Evaluators, name: str) -> list[float | None]:
    """Read the age in years, or the probability of male, of every result's largest face."""
    values: list[float | None] = []
    for pair in pairs_of(photos, results):
        face = measure_pair(pair, images.read(pair.original).pixels, images.read(pair.result).pixels, evaluators).face
        reading = None if face is None or face.readings is None else face.readings[1]
        values.append(None if reading is None else reading.age if name == "age" else 1 - reading.female)
    return values


def pairs_of(photos: Sequence[Path], results: Path) -> list[Pair]:
    """Match some photos of a folder with their results."""
    names = {photo.stem for photo in photos}
    return [pair for pair in match_folders(photos[0].parent, results).pairs if pair.name in names]


def naive(evaluation: Evaluation) -> str:
    """Format the TPR of the naive attack at the lowest false match rate measured."""
    figures = [figure for section in evaluation.sections for figure in section.figures if figure.name == NAIVE]
    figure = [figure for figure in figures if figure.column.startswith("TPR") and figure.value is not None][-1]
    return f"{format_value(figure)} ({format_interval(figure)}) at {figure.column.removeprefix('TPR at ')}"


def measure(args: argparse.Namespace) -> None:
    sets = {
        folder: [p for p in sorted(folder.iterdir()) if p.suffix.lower() in images.READABLE][: args.limit]
        for folder in (args.people, args.photos)
    }
    load = cache(lambda model: Anonymizer.from_pretrained(model, device=args.device))
    for folder, photos in sets.items():
        produce(ROWS, photos, args.out / folder.name, load)
    detector, pose = Detector(args.detector), HeadPose(args.pose)
    evaluators = Evaluators(detector, FaceMesh(), (), AgeGender(args.attributes))
    attackers = Evaluators(detector, NoMesh(), (Recogniser(args.recogniser),))
    rows, tpr, people = {}, {}, np.zeros(0)
    for row in ROWS:
        of_people, of_photos = (result_folder(args.out / folder.name, row) for folder in sets)
        matching, attacked = evaluate_results(sets[args.people], of_people, attackers, attacks_only=True)
        pairs = [*matching.pairs, *pairs_of(sets[args.photos], of_photos)]
        people = np.array([pair.person for pair in pairs])
        rows[row.name], tpr[row.name] = measure_pairs(pairs, evaluators, pose), naive(attacked)
    changes = changed(sets[args.photos][: args.change], args.out / "changed", load, evaluators) if args.change else []
    counts = " and ".join(f"{len(photos):,} photos of {folder.name}" for folder, photos in sets.items())
    page = "\n".join(
        [
            "## What is kept",
            "",
            f"`benchmarks/kept.py`: {counts}, seed {SEED} in every row. In brackets the difference from the row that",
            "keeps nothing, with its paired 95 % interval over people; a star if that excludes 0.",
            "",
            table(rows, people, tpr),
            "",
            *changes,
            "",
            f"Evaluators: {args.detector.stem}, {args.recogniser.stem}, {args.attributes.stem}, {args.pose.stem};",
            "expression by MediaPipe's mesh, which also draws the map that the model follows. It counts as kept if",
            "smile, lips and lids are all within 0.1 of the original's.",
            "",
            f"Machine: {machine(load(ROWS[0].model).pipeline.device)}.",
        ]
    )
    print(page)
    put(args.page, "what is kept", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sets_and_evaluators(parser)
    parser.add_argument("--change", type=int, default=0, metavar="FACES")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    args = parser.parse_args()
    try:
        measure(args)
    except (DeidError, OSError, ValueError) as error:
        sys.exit(f"error: {one_line(error)}")


if __name__ == "__main__":
    main()
