r"""What each choice of --keep keeps, and what it costs: one table, every row paired with the one that keeps nothing.

    python benchmarks/kept.py --people LFW --photos FAIRFACE -o RESULTS --detector yunet.onnx --recogniser reid.xml \
        --attributes age-gender.xml --pose head-pose.xml [--limit 60]

Folders and judges as in ``benchmarks/side_by_side.py``. Every row has the same seed, so that rows differ by what is
kept and not by whom a face became. On --people each result is compared with another original of the person (threshold
for a false match rate of 1e-3 set on strangers' originals); on both folders the largest face of each photo is compared
with its result. The last row is an ablation: everything is kept, but the map is the mean face's.

A difference is marked where the 95 % interval of the paired bootstrap over people does not hold 0. --change FACES tries
`--change` on the first so many of --photos as well. Writes its part of --page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from attacks import Detector, Recogniser
from benchmark_page import machine, put
from openvino_judges import AgeGender, HeadPose, add_sets_and_judges, yaw_errors
from side_by_side import NoMesh, Tool, judged, make, place

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.errors import DeidError, one_line
from deid_diffusion.evaluation.attacks import NAIVE
from deid_diffusion.evaluation.evaluate import Evaluation
from deid_diffusion.evaluation.measure import Evaluators, FaceMeasurement, measure_pair
from deid_diffusion.evaluation.pairing import Pair, match_folders
from deid_diffusion.evaluation.perceptual import PerceptualMeter
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
"""Attribute, and two words; the reading under the first should be the more male, the older."""

Value = Callable[[FaceMeasurement], float | None]


@dataclass(frozen=True)
class Column:
    """Attributes:
    name: of the figure.
    value: what it is of a face; None where it cannot be told.
    unit: printed behind it.
    """

    name: str
    value: Value
    unit: str = ""


def _expression(face: FaceMeasurement) -> float | None:
    verdicts = kept(face, read=False)
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


def measured(pairs: Sequence[Pair], judges: Evaluators, pose: HeadPose) -> dict[str, np.ndarray]:
    """Name of each column to N numbers, NaN where a photo has none."""
    looks = [
        measure_pair(pair, images.read(pair.original).pixels, images.read(pair.result).pixels, judges) for pair in pairs
    ]
    found: dict[str, Sequence[float | None]] = {
        column.name: [None if one.face is None else column.value(one.face) for one in looks] for column in COLUMNS
    }
    found[YAW] = yaw_errors(pairs, judges.detector, pose)
    return {name: np.array([np.nan if v is None else v for v in values]) for name, values in found.items()}


def cell(values: np.ndarray, base: np.ndarray, people: np.ndarray) -> str:
    """A row's mean, and by how much it differs from the base on the photos that both have a number of."""
    both = ~np.isnan(values) & ~np.isnan(base)
    difference = values[both] - base[both]
    low, high = bootstrap_interval(difference, people[both]) if np.ptp(difference) > 0 else (0.0, 0.0)
    mark = " *" if low > 0 or high < 0 else ""
    text = f"{np.nanmean(values):.3g}"
    return text if values is base else f"{text} ({difference.mean():+.2g}; {low:+.2g} to {high:+.2g}){mark}"


def table(rows: Mapping[str, Mapping[str, np.ndarray]], people: np.ndarray, tpr: Mapping[str, str]) -> str:
    """Markdown."""
    names = [*(column.name for column in COLUMNS), YAW]
    lines = [["kept", *names, "re-identified (naive TPR)"]]
    lines.append(["---"] * len(lines[0]))
    for name, row in rows.items():
        lines.append([name, *(cell(row[one], rows[NOTHING][one], people) for one in names), tpr[name]])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def changed(photos: Sequence[Path], out: Path, load: Callable[[str], Anonymizer], judges: Evaluators) -> list[str]:
    """One line for each of `CHANGES`: in how many faces the judge's reading moved in the asked direction."""
    lines = []
    for name, *words in CHANGES:
        tools = [Tool(f"{name} {word}", Options(seed=SEED, change={name: word})) for word in words]
        make(tools, photos, out, load)
        readings = [readings_of(photos, place(out, tool), judges, name) for tool in tools]
        moved = np.array([a - b for a, b in zip(*readings, strict=True) if a is not None and b is not None])
        lines.append(
            f"- `--change {name}={words[0]}` against `{name}={words[1]}`: the reading moved in the asked direction in "
            f"{(moved > 0).sum()} of {len(moved)} faces ({100 * (moved > 0).mean():.0f} %), by {moved.mean():.2f} "
            f"{'years' if name == 'age' else 'of the probability'} in the mean."
        )
    return lines


def readings_of(photos: Sequence[Path], results: Path, judges: Evaluators, name: str) -> list[float | None]:
    """What the judge reads of each result's largest face: years, or how male it looks."""
    found: list[float | None] = []
    for pair in pairs_of(photos, results):
        face = measure_pair(pair, images.read(pair.original).pixels, images.read(pair.result).pixels, judges).face
        reading = None if face is None or face.readings is None else face.readings[1]
        found.append(None if reading is None else reading.age if name == "age" else 1 - reading.female)
    return found


def pairs_of(photos: Sequence[Path], results: Path) -> list[Pair]:
    """Some photos of a folder and their results."""
    wanted = {photo.stem for photo in photos}
    return [pair for pair in match_folders(photos[0].parent, results).pairs if pair.name in wanted]


def naive(found: Evaluation) -> str:
    """The share of results that match another original of their person, at the strictest rate that was measured."""
    every = [one for section in found.sections for one in section.figures if one.name == NAIVE]
    figure = [one for one in every if one.column.startswith("TPR") and one.value is not None][-1]
    return f"{format_value(figure)} ({format_interval(figure)}) at {figure.column.removeprefix('TPR at ')}"


def measure(args: argparse.Namespace) -> None:
    sets = {
        folder: [p for p in sorted(folder.iterdir()) if p.suffix.lower() in images.READABLE][: args.limit]
        for folder in (args.people, args.photos)
    }
    load = cache(lambda model: Anonymizer.from_pretrained(model, device=args.device))
    for folder, photos in sets.items():
        make(ROWS, photos, args.out / folder.name, load)
    detector, pose = Detector(args.detector), HeadPose(args.pose)
    judges = Evaluators(detector, FaceMesh(), (), AgeGender(args.attributes), PerceptualMeter())
    attackers = Evaluators(detector, NoMesh(), (Recogniser(args.recogniser),), None, PerceptualMeter())
    rows, tpr, people = {}, {}, np.zeros(0)
    for row in ROWS:
        of_people, of_photos = (place(args.out / folder.name, row) for folder in sets)
        matching, attacked = judged(sets[args.people], of_people, attackers)
        pairs = [*matching.pairs, *pairs_of(sets[args.photos], of_photos)]
        people = np.array([pair.person for pair in pairs])
        rows[row.name], tpr[row.name] = measured(pairs, judges, pose), naive(attacked)
    changes = changed(sets[args.photos][: args.change], args.out / "changed", load, judges) if args.change else []
    counts = " and ".join(f"{len(photos):,} photos of {folder.name}" for folder, photos in sets.items())
    page = "\n".join(
        [
            "## What is kept",
            "",
            f"`benchmarks/kept.py`: {counts}, seed {SEED} in every row. In brackets the difference from the row that",
            "keeps nothing, with its paired 95 % interval over people; a star where that does not hold 0.",
            "",
            table(rows, people, tpr),
            "",
            *changes,
            "",
            f"Judges: {args.detector.stem}, {args.recogniser.stem}, {args.attributes.stem}, {args.pose.stem};",
            "expression by MediaPipe's mesh, which also draws the map that the model follows. It is kept where smile,",
            "lips and lids are all within 0.1 of the original's.",
            "",
            f"Machine: {machine(load(ROWS[0].model).pipeline.device)}.",
        ]
    )
    print(page)
    put(args.page, "what is kept", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sets_and_judges(parser)
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
