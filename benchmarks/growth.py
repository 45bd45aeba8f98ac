"""How cost grows with the work: faces a photo, photo side, batch size, steps, and photos (memory).

    python benchmarks/growth.py PHOTOS

PHOTOS show one large face each; the test photos are made of them. Every time stands beside that of the stock
StableDiffusionControlNetInpaintPipeline on the same components and the same inputs, and of the floor: UNet and
ControlNet alone. What is compared takes turns (A B C A B C ...), and the figures are medians, since a machine is never
quiet; ratios are medians of the ratios of each turn. There are --rounds turns, but fewer, three at least, where they
take minutes.

Faces get one candidate each (--attempts 1), so that the work does not depend on chance. An option without a value
leaves its table out. --model measures another one, such as the folder that `random_sd.py` makes. Prints the tables and
writes them as this script's part of --page, of which each model has its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import stages
from benchmark_page import machine, put
from memory import peaks
from stock import Work, by_ours, by_stock, floor, stock_pipeline, work

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.errors import DeidError, one_line
from deid_diffusion.evaluation.onnx import face_square
from deid_diffusion.evaluation.pairing import largest
from deid_diffusion.io import images
from deid_diffusion.options import Options

MARK, BUILTIN = "growth", "builtin"
CELL, FACE_MARGIN = 192, 1.8  # a face's square on a test photo: pixels, and in sides of the face's box
COLUMNS, ROWS = 8, 4  # squares on the photo of many faces
BATCH = 8  # faces denoised at once, where nothing else is said
STEADY = 4  # faces of a photo, and of a batch, where nothing else is said
FEWEST_ROUNDS, PATIENCE = 3, 120.0  # seconds after which a comparison has had enough rounds
LIMITS = {"around": 0.15, "stock": 1.03, "batch cpu": 1.0, "batch gpu": 0.7, "memory": 1.05}

Task = Callable[[], object]


def turns(tasks: Mapping[Hashable, Task], rounds: int) -> dict[Hashable, np.ndarray]:
    """Seconds of each task in each round, (rounds,) or fewer, after one round that warms up."""
    found: dict[Hashable, list[float]] = {name: [] for name in tasks}
    started = time.perf_counter()
    for done in range(rounds + 1):
        if done > FEWEST_ROUNDS and time.perf_counter() - started > PATIENCE:
            break
        for name, task in tasks.items():
            begun = time.perf_counter()
            task()
            found[name].append(time.perf_counter() - begun)
    return {name: np.array(values[1:]) for name, values in found.items()}


def ratio(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.median(one / other))


def squares(folder: Path, anonymizer: Anonymizer, count: int) -> list[np.ndarray]:
    """(CELL, CELL, 3) uint8 pictures of one face each, of the first photos in which one is found."""
    found: list[np.ndarray] = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in images.READABLE):
        photo = images.read(path).pixels
        face = largest(anonymizer.detector(photo))
        if face is not None:
            square = face_square(photo, face.box, FACE_MARGIN, CELL)
            found += [square] if len(anonymizer.detector(square)) == 1 else []
        if len(found) == count:
            return found
    raise DeidError(f"{folder}: {len(found)} photos show one face that is found again: {count} are needed")


def grid(faces: Sequence[np.ndarray], columns: int, rows: int) -> np.ndarray:
    """A photo of columns x rows squares, the first ones with faces, the others grey."""
    grey = [np.full((CELL, CELL, 3), 128, np.uint8)] * (columns * rows - len(faces))
    cells = [*faces, *grey]
    return np.vstack([np.hstack(cells[k * columns : (k + 1) * columns]) for k in range(rows)])


class Bench:
    """What is timed: the whole house, the pipeline, the stock pipeline, and the floor."""

    def __init__(self, anonymizer: Anonymizer, rounds: int) -> None:
        self.anonymizer, self.pipeline, self.rounds = anonymizer, anonymizer.pipeline, rounds
        self.stock = stock_pipeline(self.pipeline)

    def whole(self, photo: np.ndarray, batch: int = BATCH) -> int:
        """De-identify a photo; how many faces were found."""
        return len(self.anonymizer(photo, Options(num_candidates=1, batch_size=batch)).faces)

    def batches(self, count: int, batch: int = BATCH) -> list[Work]:
        sizes = [batch] * (count // batch) + ([count % batch] if count % batch else [])
        return [work(self.pipeline, size) for size in sizes]

    def ways(self, works: Sequence[Work]) -> dict[Hashable, Task]:
        """The same denoising three ways."""
        return {
            "ours": lambda: [by_ours(self.pipeline, one) for one in works],
            "stock": lambda: [by_stock(self.stock, one) for one in works],
            "floor": lambda: [floor(self.pipeline, one) for one in works],
        }

    def check(self) -> None:
        """Raise DeidError if the stock pipeline does not paint the same pictures: then it does not do the same work."""
        given = work(self.pipeline, 2)
        if not np.allclose(by_ours(self.pipeline, given), by_stock(self.stock, given), atol=1e-3):
            raise DeidError("the stock pipeline paints other pictures from the same inputs: nothing can be compared")


def photos_table(bench: Bench, title: str, photos: Mapping[int, np.ndarray]) -> str:
    """Time of the whole house for test photos, beside the denoising of as many faces."""
    lines = [[title, "faces found", "s a photo", "s a face", "to stock", "to floor"]]
    for key, photo in photos.items():
        print(f"{title}: {key}", file=sys.stderr)
        faces = bench.whole(photo)
        tasks = bench.ways(bench.batches(max(faces, 1)))
        found = turns({**tasks, "ours": partial(bench.whole, photo)}, bench.rounds)
        seconds = float(np.median(found["ours"]))
        shares = [f"{ratio(found['ours'], found[name]):.2f}" for name in ("stock", "floor")]
        lines.append([f"{key:,}", str(faces), f"{seconds:.2f}", f"{seconds / max(faces, 1):.3f}", *shares])
    return table(lines)


def batch_table(bench: Bench, sizes: Sequence[int]) -> tuple[str, dict[int, float], dict[int, float]]:
    """Time of the pipeline for batches, and by size: ours to stock, a face to one of the smallest batch."""
    print(f"batch sizes: {sizes}", file=sys.stderr)
    works = {size: bench.ways([work(bench.pipeline, size)]) for size in sizes}
    found = turns({(size, way): task for size, ways in works.items() for way, task in ways.items()}, bench.rounds)
    to_stock = {size: ratio(found[size, "ours"], found[size, "stock"]) for size in sizes}
    a_face = {size: ratio(found[size, "ours"] / size, found[sizes[0], "ours"] / sizes[0]) for size in sizes}
    lines = [["faces a batch", "s a face", f"to a face at {sizes[0]}", "to stock", "to floor"]]
    for size in sizes:
        seconds = float(np.median(found[size, "ours"])) / size
        to_floor = ratio(found[size, "ours"], found[size, "floor"])
        lines.append([str(size), f"{seconds:.3f}", f"{a_face[size]:.2f}", f"{to_stock[size]:.3f}", f"{to_floor:.2f}"])
    return table(lines), to_stock, a_face


def steps_table(bench: Bench, steps: Sequence[int]) -> str:
    print(f"steps: {steps}", file=sys.stderr)
    lines = [["steps", "s a face", "to stock", "to floor"]]
    for count in steps:
        found = turns(bench.ways([work(bench.pipeline, STEADY, count)]), bench.rounds)
        seconds = float(np.median(found["ours"])) / STEADY
        shares = [f"{ratio(found['ours'], found[name]):.2f}" for name in ("stock", "floor")]
        lines.append([str(count), f"{seconds:.3f}", *shares])
    return table(lines)


def stations_table(bench: Bench, photo: np.ndarray) -> tuple[str, float, float]:
    """Where the time of `STEADY` faces goes; the shares of all but the denoiser, and of all but the pipeline."""
    bench.whole(photo, STEADY)
    with stages.watched(bench.anonymizer) as watch:
        faces = sum(bench.whole(photo, STEADY) for _ in range(bench.rounds))
    total = sum(one.wall for one in watch.spent.values())
    lines = [["station", "ms a face", "share", "ms of all cores"]]
    for name, one in sorted(watch.spent.items(), key=lambda pair: -pair[1].wall):
        wall, cpu = (f"{1000 * seconds / faces:.0f}" for seconds in (one.wall, one.cpu))
        lines.append([name, wall, f"{one.wall / total:.1%}", cpu])
    cores = sum(one.cpu for one in watch.spent.values())
    lines.append(["all", f"{1000 * total / faces:.0f}", "", f"{1000 * cores / faces:.0f}"])
    inside = [watch.spent[name].wall / total for name in (stages.DENOISER, stages.VAE, stages.PIPELINE)]
    return table(lines), 1 - inside[0], 1 - sum(inside)


def table(lines: Sequence[Sequence[str]]) -> str:
    rows = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def verdict(what: str, value: float, limit: float) -> list[str]:
    return [what, f"{value:.3f}", f"{limit:.2f}", "yes" if value <= limit else "**no**"]


def measure(args: argparse.Namespace) -> str:
    """What the page gets."""
    anonymizer = Anonymizer.from_pretrained(args.model, device=args.device)
    bench = Bench(anonymizer, args.rounds)
    bench.check()
    gpu = anonymizer.pipeline.device.type == "cuda"
    faces = squares(args.photos, anonymizer, max([STEADY, *args.faces]))
    few = grid(faces[:STEADY], 2, 2)
    parts, lines = [], [["what", "measured", "at most", "met"]]

    stations, around, outside = stations_table(bench, few)
    parts.append(f"### Stations\n\nA photo of {STEADY} faces, {len(few)} px, one batch.\n\n{stations}")
    for what, share in (("the denoiser", around), ("the pipeline's call, its VAE included", outside)):
        lines.append(verdict(f"everything around {what}, of a face's time at batch {STEADY}", share, LIMITS["around"]))
    if args.faces:
        many = {count: grid(faces[:count], COLUMNS, ROWS) for count in args.faces}
        size = f"{COLUMNS * CELL:,} x {ROWS * CELL} px"
        parts.append(f"### Faces a photo\n\nPhotos of {size}.\n\n{photos_table(bench, 'faces', many)}")
    if args.sides:
        sides = {side: cv2.resize(few, (side, side), interpolation=cv2.INTER_CUBIC) for side in args.sides}
        parts.append(f"### Side of the photo, px\n\n{STEADY} faces.\n\n{photos_table(bench, 'side', sides)}")
    if args.batches:
        batches, to_stock, a_face = batch_table(bench, args.batches)
        parts.append(f"### Batch size\n\nThe pipeline alone.\n\n{batches}")
        lines += [verdict(f"pipeline to stock, batch {size}", to_stock[size], LIMITS["stock"]) for size in args.batches]
        pair = f"a face at batch {args.batches[-1]} to one at {args.batches[0]}"
        lines.append(verdict(pair, a_face[args.batches[-1]], LIMITS["batch gpu" if gpu else "batch cpu"]))
    if args.steps:
        parts.append(f"### Steps\n\nThe pipeline alone, batch {STEADY}.\n\n{steps_table(bench, args.steps)}")
    if args.memory:
        files = [p for p in sorted(args.photos.iterdir()) if p.suffix.lower() in images.READABLE]
        found = peaks(files, args.memory, args.model, args.device)
        rows = [["photos", "GB at most"], *([f"{n:,}", f"{gb:.3f}"] for n, gb in zip(args.memory, found, strict=True))]
        parts.append(f"### Memory\n\nOne run of `anonymize`, peak of the process.\n\n{table(rows)}")
        pair = f"memory after {args.memory[-1]:,} photos to that after {args.memory[0]:,}"
        lines.append(verdict(pair, found[-1] / found[0], LIMITS["memory"]))
    where, other = machine(anonymizer.pipeline.device), "" if args.model == BUILTIN else f", {anonymizer.model_name}"
    return f"""
## How cost grows{other}

`benchmarks/growth.py` with {anonymizer.model_name}, {anonymizer.pipeline.config.default_steps} steps a face; medians of
up to {args.rounds} turns. *To stock* and *to floor* are ratios to diffusers' StableDiffusionControlNetInpaintPipeline
on the same components and inputs, which paints the same pictures, and to UNet and ControlNet alone.

{table(lines)}
{chr(10).join(parts)}
Faces: {args.photos.name}. Machine: {where}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    for name, default in (
        ("faces", [1, 2, 4, 8, 16, 32]),
        ("sides", [500, 1000, 2000, 4000, 6000]),
        ("batches", [1, 2, 4, 8]),
        ("steps", [1, 2, 4, 8, 16]),
        ("memory", [10, 30, 100, 300, 1000]),
    ):
        parser.add_argument(f"--{name}", type=int, nargs="*", default=default, help="in increasing order")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", default=BUILTIN, help="another one gets a part of the page of its own")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    args = parser.parse_args()
    try:
        page = measure(args)
    except (DeidError, OSError) as error:
        sys.exit(f"error: {one_line(error)}")
    print(page)
    put(args.page, MARK if args.model == BUILTIN else f"{MARK} of {Path(args.model).name}", page)


if __name__ == "__main__":
    main()
