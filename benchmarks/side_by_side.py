r"""Tools that people use today and ours, on the same photos in one run: privacy, utility and speed in one table.

    python benchmarks/side_by_side.py --people LFW --photos FAIRFACE -o RESULTS --detector yunet.onnx \
        --recogniser reid.xml --attributes age-gender.xml --pose head-pose.xml

--people are photos of people, two or more of each, named PERSON_NUMBER.jpg: on them people are re-identified. On
--photos attributes and time are measured. Tools take turns, photo by photo, so that whatever else the machine does
slows all of them alike. None of the judges has a part in making results, but for MediaPipe's mesh, by which expressions
are compared.

Results stay in RESULTS: an interrupted run goes on where it was. Those of other weights are never reused; after a
change of the code, name another folder. --limit takes the first photos of each folder only, for a quick look.

--model-dir adds a pipeline of the user's, such as one on a Stable Diffusion checkpoint. With --speed-only its weights
are random and nothing but its time is of interest: it does three photos, one candidate a face.

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

import numpy as np
from attacks import Detector, Recogniser
from benchmark_page import machine, put
from comparison import Compared, as_near, compare, frontier, markdown, untouched
from deface_tool import deface
from openvino_judges import AgeGender, HeadPose, add_sets_and_judges, yaw_errors

from deid_diffusion import anonymizer as house
from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.batch.photos import Settings, run
from deid_diffusion.batch.planning import make_plan
from deid_diffusion.cli.console import Bar
from deid_diffusion.errors import DeidError, one_line
from deid_diffusion.evaluation.evaluate import Evaluation, evaluate, read_reports
from deid_diffusion.evaluation.measure import Evaluators
from deid_diffusion.evaluation.pairing import Matching, match_folders, with_people
from deid_diffusion.evaluation.perceptual import PerceptualMeter
from deid_diffusion.evaluation.statistics import mean_of
from deid_diffusion.faces.landmarks import FaceMesh
from deid_diffusion.io import images
from deid_diffusion.options import Options
from deid_diffusion.results import JobResult

FEW = 3  # photos of a pipeline of which only the speed is of interest
BUILTIN = str(Path(house.__file__).with_name("builtin"))
MARK = "side by side"


@dataclass(frozen=True)
class Tool:
    """A row of the table: ours with some options, or deface without."""

    name: str
    options: Options | None
    model: str = BUILTIN


OURS = Tool("embedded model", Options())
TOOLS = (
    Tool("black box", Options(method="fill")),
    Tool("blur", Options(method="blur")),
    Tool("pixelate", Options(method="pixelate")),
    Tool("deface", None),
    Tool("embedded model, nothing kept", Options(keep=())),
    OURS,
)


class NoMesh:
    """A `Landmarker` that sees nothing: faces are then aligned by the points of the judge's own detector."""

    def __call__(self, crop: np.ndarray) -> None:
        return None


@cache
def digest(model: str) -> str:
    """A short name of a model folder's weights."""
    found = hashlib.sha256()
    for path in sorted(Path(model).rglob("*.safetensors")):
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                found.update(block)
    return found.hexdigest()[:8]


def place(out: Path, tool: Tool) -> Path:
    """Where a tool's results of a set are."""
    made_by_weights = tool.options is not None and tool.options.method == "generate"
    name = tool.name.replace(", ", "-").replace(" ", "-")
    return out / (f"{name}-{digest(tool.model)}" if made_by_weights else name)


def record(out: Path, tool: Tool) -> Path:
    """Where its report is: a JSON line a photo."""
    folder = place(out, tool)
    return folder.with_name(f"{folder.name}.jsonl")


def work(tool: Tool, photos: Sequence[Path], out: Path, load: Callable[[str], Anonymizer]) -> Iterator[JobResult]:
    """A tool's way through the photos that have no result yet."""
    plan, report = make_plan(photos, place(out, tool)), record(out, tool)
    if tool.options is None:
        return deface(plan.jobs, report)
    return run(plan, partial(load, tool.model), Settings(tool.options), report)


def make(tools: Sequence[Tool], photos: Sequence[Path], out: Path, load: Callable[[str], Anonymizer]) -> None:
    """All results of a set. Stops at the first photo that a tool gives no result of."""
    out.mkdir(parents=True, exist_ok=True)
    ways = [work(tool, photos, out, load) for tool in tools]
    todo = max(len(make_plan(photos, place(out, tool)).jobs) for tool in tools)
    with Bar() as bar:
        bar.show(len(photos) - todo, len(photos), out.name)
        for done, outcomes in enumerate(zip_longest(*ways), len(photos) - todo + 1):
            for tool, outcome in zip(tools, outcomes, strict=True):
                if outcome is not None and outcome.message:
                    raise DeidError(f"{tool.name}: {outcome.message}")
            bar.show(done, len(photos), out.name)


def seconds(out: Path, tool: Tool, photos: Sequence[Path]) -> float:
    """A face: the median over photos, of what the tool itself counts as faces. The first photo loads the model."""
    reports = read_reports(record(out, tool), [photo.stem for photo in photos])
    return median(one.seconds / len(one.faces) for one in reports.values() if one.faces)


def judged(photos: Sequence[Path], results: Path, judges: Evaluators) -> tuple[Matching, Evaluation]:
    """What the judges say of all photos of a set."""
    wanted = {photo.stem for photo in photos}
    found = match_folders(photos[0].parent, results)
    pairs = tuple(pair for pair in found.pairs if pair.name in wanted)
    if len(pairs) < len(wanted):
        raise DeidError(f"{results}: {len(wanted) - len(pairs)} results are missing: run it again")
    matching = with_people(replace(found, pairs=pairs, without_result=(), without_original=()), None, None)
    print(f"judging {results}", file=sys.stderr)
    return matching, evaluate(matching, judges, {})


def text(rows: Sequence[Compared], ours: Compared, sets: str, judges: str, where: str) -> str:
    """What the page gets."""
    nearer = as_near(rows, ours)
    verdict = (
        f"By this rule *{ours.name}* is **not** the nearest: {', '.join(nearer)} {'is' if len(nearer) == 1 else 'are'} "
        "as near or nearer."
        if nearer
        else f"By this rule *{ours.name}* is nearer to the ideal corner than every other row."
    )
    return f"""
## Side by side

`benchmarks/side_by_side.py`: every tool at its defaults, on the same photos in one run. {sets}

{markdown(rows)}
![Share of people re-identified against share of attributes kept](frontier.svg)

**The rule.** x is the largest of the three shares of re-identified people (naive TPR, naive rank-1, parrot rank-1), y
the share of attributes kept, both from 0 to 1. The distance is that from the ideal corner, x = 0 and y = 1:
`sqrt(x^2 + (1 - y)^2)`. {verdict}

- Attacks and attributes are those of [evaluation.md](evaluation.md). A face that was left as it was counts as
  re-identified; one that is not found again keeps nothing. Where no face is found in a result, the recogniser reads the
  original's place.
- Sex, age, yaw and expression are compared where a face is found again, so a tool that destroys most faces is judged by
  the rest: *attributes kept* is the column that is fair to all.
- s a face: median over photos of the time from reading a photo to writing its result, by the faces that the tool itself
  found. Ours search a photo twice, and verify each face; deface searches once.

Judges: {judges}. Expression by MediaPipe's mesh, which also draws the map that the model follows.

Machine: {where}.
"""


def measure(args: argparse.Namespace) -> None:
    sets = {}
    for folder in (args.people, args.photos):
        sets[folder] = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in images.READABLE][: args.limit]
    load = cache(lambda model: Anonymizer.from_pretrained(model, device=args.device))
    mine = None if args.model_dir is None else Tool(args.model_dir.name, Options(), str(args.model_dir))
    tools = [*TOOLS, *([mine] if mine and not args.speed_only else [])]
    for folder, photos in sets.items():
        make(tools, photos, args.out / folder.name, load)

    detector, recognisers = Detector(args.detector), (Recogniser(args.recogniser),)
    reader, pose = AgeGender(args.attributes), HeadPose(args.pose)
    identity = Evaluators(detector, NoMesh(), recognisers, None, PerceptualMeter())
    attributes = Evaluators(detector, FaceMesh(), recognisers, reader, PerceptualMeter())
    rows = []
    for tool in tools:
        of_people, of_photos = (args.out / folder.name for folder in sets)
        _, who = judged(sets[args.people], place(of_people, tool), identity)
        matching, what = judged(sets[args.photos], place(of_photos, tool), attributes)
        turned = yaw_errors(matching.pairs, detector, pose)
        yaw = mean_of("yaw error", turned, [pair.person for pair in matching.pairs], "degrees", "lower")
        rows.append(compare(tool.name, who, what, seconds(of_photos, tool, sets[args.photos]), [yaw]))
    ours = next(row for row in rows if row.name == OURS.name)
    rows.insert(0, untouched(who))
    if mine and args.speed_only:
        quick, few = replace(mine, options=Options(num_candidates=1)), sets[args.photos][:FEW]
        make([quick], few, args.out / "speed", load)
        rows.append(
            Compared(f"{mine.name} (random weights: speed only)", seconds=seconds(args.out / "speed", quick, few))
        )

    counts = [f"{args.people.name}, {who.photos:,} photos of {who.people:,} people, for re-identification"]
    counts.append(f"{args.photos.name}, {what.photos:,} photos, for attributes and time")
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
    add_sets_and_judges(parser)
    parser.add_argument("--model-dir", type=Path)
    parser.add_argument("--speed-only", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    args = parser.parse_args()
    if args.speed_only and args.model_dir is None:
        parser.error("--speed-only: is about the pipeline of --model-dir: name one")
    try:
        measure(args)
    except (DeidError, OSError, ValueError) as error:
        sys.exit(f"error: {one_line(error)}")


if __name__ == "__main__":
    main()
