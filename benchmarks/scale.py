"""A data set that is cut off and begun again: is the final set complete, and how does memory grow?

    python benchmarks/scale.py kills FACES --photos 2000 --kills 3
    python benchmarks/scale.py kills FACES --photos 2000 --engine ray --kills 0 --worker-kills 2
    python benchmarks/scale.py memory FACES --photos 200 2000
    python benchmarks/scale.py memory FACES --photos 200 2000 20000 --stand-in

FACES is a folder or tar of pictures of faces. Of the photos that are made of them, 160 to 256 px, one in five shows a
face and the others show none. `kills` runs `deid-diffusion dataset`, kills it, or workers of it, with SIGKILL at random
moments, runs it again, and looks at every file. `memory` prints each process's peak after so many photos of one run.
With --stand-in no model is loaded, and the middle of every photo is filled: what is measured is then the run, its
workers and its journal alone. Prints JSON; the exit code is 1 if anything is missing, doubled, torn, made again or not
de-identified.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
from PIL import Image

from deid_diffusion.results import FaceRecord

FACE_EVERY = 5
PATIENCE_S = 3600.0


def faces(source: Path) -> Iterator[Image.Image]:
    """Pictures of a folder or tar, over and over."""
    while True:
        if source.is_dir():
            for path in sorted(source.iterdir()):
                yield Image.open(path).convert("RGB")
        else:
            with tarfile.open(source) as tar:
                for member in tar:
                    stream = tar.extractfile(member)
                    if stream is not None:
                        yield Image.open(stream).convert("RGB")


def make_photos(source: Path, folder: Path, count: int, rng: random.Random) -> None:
    """Photos in folders of a hundred; the first letter of a name says whether it shows a face."""
    shown = faces(source)
    for k in range(count):
        side = rng.randint(160, 256)
        if k % FACE_EVERY:
            waves = np.random.default_rng(k).integers(0, 256, (6, 6, 3), dtype=np.uint8)
            name, picture = "n", Image.fromarray(waves).resize((side, side), Image.Resampling.BICUBIC)
        else:
            name, picture = "f", next(shown).resize((side, side))
        path = folder / f"{k // 100:03}" / f"{name}{k:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)


class StandIn:
    """Takes the middle of every picture for a face and fills it."""

    model_name, verifier = "stand-in", SimpleNamespace(description="none")

    def check(self, options: object) -> None:
        """Everything can be done."""

    def __call__(self, image: np.ndarray, options: object, **given: object) -> SimpleNamespace:
        result, (height, width) = image.copy(), image.shape[:2]
        result[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = 128
        face = FaceRecord((0.0, 0.0, float(width), float(height)), "stand-in", 1.0, "filled", None, False)
        return SimpleNamespace(image=Image.fromarray(result), faces=(face,))


def stand_in(model: str, device: str) -> StandIn:
    return StandIn()


def begin(base: Path, args: argparse.Namespace) -> subprocess.Popen[bytes]:
    program = "from deid_diffusion.cli.main import main; main()"
    if args.stand_in:
        put_in = "import scale; from deid_diffusion.cli import anonymize as a; a.load_anonymizer = scale.stand_in"
        program = f"{put_in}; {program}"
    command = [sys.executable, "-c", program, "dataset", "in", "-o", "out"]
    command += ["--method", args.method, "--device", "cpu", "--workers", str(args.workers), "--engine", args.engine]
    with (base / "log.txt").open("ab") as log:
        # Ray's workers are as nice as their run: on a busy machine they would hardly get on
        path = [str(Path(__file__).resolve().parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        own = {**os.environ, "RAY_worker_niceness": "0", "PYTHONPATH": os.pathsep.join(filter(None, path))}
        return subprocess.Popen(command, cwd=base, stdout=log, stderr=log, env=own)


def finished(base: Path) -> dict[str, tuple[int, int]]:
    """Results so far, each with its inode and time: both change when it is made again."""
    out = base / "out"
    found = {}
    for path in out.rglob("*.png") if out.exists() else ():
        if ".deid-work" not in path.parts:
            status = path.stat()
            found[path.relative_to(out).as_posix()] = (status.st_ino, status.st_mtime_ns)
    return found


def whole(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            picture.load()
    except Exception:
        return False
    return True


def wait_until(base: Path, run: subprocess.Popen[bytes], count: int) -> None:
    """Until so many results are there."""
    started = time.monotonic()
    while run.poll() is None and len(finished(base)) < count and time.monotonic() - started < PATIENCE_S:
        time.sleep(0.5)


def kill_worker(run: subprocess.Popen[bytes], rng: random.Random) -> bool:
    """Kill one of the processes that hold a model, all of which are children of ours."""
    children = psutil.Process(run.pid).children(recursive=True)
    marks = ("ray::_Actor", "spawn_main")
    workers = [one for one in children if any(mark in " ".join(one.cmdline()) for mark in marks)]
    if workers:
        os.kill(rng.choice(workers).pid, signal.SIGKILL)
    return bool(workers)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def judge(base: Path, photos: int) -> dict[str, int]:
    """What is wrong with the final set; all of it has to be 0."""
    names = {path.relative_to(base / "in").as_posix() for path in (base / "in").rglob("*.png")}
    made = set(finished(base))
    lines = [json.loads(line) for line in (base / "out.manifest.jsonl").read_text().splitlines()]
    outputs = [line["output"] for line in lines]
    return {
        "photos without a result": len(names - made),
        "results without a photo": len(made - names),
        "partial results": sum(not whole(base / "out" / name) for name in made),
        "files of no name left": len(list((base / "out").rglob(".deid-*.tmp"))) + left_over(base),
        "lines of the manifest too many or too few": abs(len(lines) - photos),
        "results with two lines": len(outputs) - len(set(outputs)),
        "wrong hashes of inputs": sum(
            line["input_sha256"] != digest(base / "in" / line["input"].partition("/")[2]) for line in lines
        ),
        "wrong hashes of results": sum(
            line["output_sha256"] != digest(base / "out" / line["output"]) for line in lines
        ),
        "faces that are as they were": sum(unchanged(base, name) for name in made if Path(name).name[0] == "f"),
    }


def found_faces(base: Path) -> int:
    return sum(len(json.loads(line)["faces"]) for line in (base / "out.manifest.jsonl").read_text().splitlines())


def left_over(base: Path) -> int:
    scratch = base / "out" / ".deid-work" / "scratch"
    return sum(path.is_file() for path in scratch.rglob("*"))


def unchanged(base: Path, name: str) -> bool:
    before, after = (np.asarray(Image.open(base / where / name).convert("RGB")) for where in ("in", "out"))
    return np.array_equal(before, after)


def kills(base: Path, args: argparse.Namespace, rng: random.Random) -> dict[str, object]:
    count = args.photos[0]
    make_photos(args.faces, base / "in", count, rng)
    moments = sorted(rng.sample(range(count // 20, count * 9 // 10), args.kills))
    again, killed_at, torn = 0, list[int](), 0
    before: dict[str, tuple[int, int]] = {}
    for moment in [*moments, None]:
        run = begin(base, args)
        if moment is None:
            for at in sorted(rng.sample(range(len(before) + 1, count * 9 // 10), args.worker_kills)):
                wait_until(base, run, at)
                killed_at += [len(finished(base))] if kill_worker(run, rng) else []
            run.wait()
        else:
            wait_until(base, run, moment)
            time.sleep(rng.random())
            run.kill()
            run.wait()
        now = finished(base)
        again += sum(now.get(name) != seen for name, seen in before.items())
        torn += sum(not whole(base / "out" / name) for name in now)
        if moment is not None:
            killed_at.append(len(now))
        before = now
        print(f"{len(now)} of {count} results, exit code {run.returncode}", file=sys.stderr)
    known = {"photos": count, "faces found": found_faces(base), "killed with so many results": killed_at}
    wrong = {**judge(base, count), "partial results after a kill": torn, "results made again": again}
    return {**known, "exit code": run.returncode, **wrong}


def memory(base: Path, args: argparse.Namespace, rng: random.Random) -> dict[str, object]:
    """Peaks, in MB, of the run's process and of its workers together, after each of the counts."""
    make_photos(args.faces, base / "in", args.photos[-1], rng)
    run, peaks = begin(base, args), dict[int, tuple[float, float]]()
    for count in args.photos:
        wait_until(base, run, count if count < args.photos[-1] else count * 19 // 20)  # before the workers end
        children = psutil.Process(run.pid).children(recursive=True)
        peaks[count] = (peak(run.pid), sum(peak(one.pid) for one in children))
    run.wait()
    first, last = peaks[args.photos[0]], peaks[args.photos[-1]]
    return {
        "peak MB, run and workers, after photos": peaks,
        "growth of the run": round(last[0] / first[0] - 1, 4),
        "growth of the workers": round(last[1] / first[1] - 1, 4) if first[1] else None,
        "exit code": run.returncode,
    }


def peak(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "memory"))
    parser.add_argument("faces", type=Path)
    parser.add_argument("--photos", type=int, nargs="+", default=[2000])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--worker-kills", type=int, default=0)
    parser.add_argument("--method", default="fill")
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--engine", default="local")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    args = parser.parse_args()
    args.faces = args.faces.absolute()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = (kills if args.what == "kills" else memory)(Path(folder), args, random.Random(args.seed))
    numbers = {
        "seed": args.seed,
        "method": "stand-in" if args.stand_in else args.method,
        "engine": args.engine,
        "workers": args.workers,
    }
    print(json.dumps({**numbers, **found, "seconds": round(time.monotonic() - started)}, indent=1))
    if args.what == "kills":
        wrong = [name for name, value in islice(found.items(), 4, None) if value]
        sys.exit(f"wrong: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
