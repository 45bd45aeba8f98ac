"""Peak memory after so many photos of a run, measured in a process of its own."""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

FIRST = 10  # photos; all later ones are the same again, so that none is larger than the largest of these


def peaks(photos: Sequence[Path], counts: Sequence[int], model: str, device: str) -> list[float]:
    """GB of peak memory after each of some counts of photos, of one run over the largest count."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        return other.submit(_run, photos[:FIRST], sorted(counts), model, device).result()


def _run(photos: Sequence[Path], counts: Sequence[int], model: str, device: str) -> list[float]:
    from deid_diffusion.anonymizer import Anonymizer
    from deid_diffusion.batch.photos import Settings, run
    from deid_diffusion.batch.planning import make_plan
    from deid_diffusion.cli.console import Bar

    found = []
    with tempfile.TemporaryDirectory() as folder, Bar() as bar:
        base = Path(folder)
        (base / "in").mkdir()
        for k in range(counts[-1]):
            photo = photos[k % len(photos)]
            shutil.copyfile(photo, base / "in" / f"{k:05}{photo.suffix}")
        plan = make_plan([base / "in"], base / "out")
        outcomes = run(
            plan, lambda: Anonymizer.from_pretrained(model, device=device), Settings(), base / "report.jsonl"
        )
        bar.show(0, counts[-1], "memory")
        for done, outcome in enumerate(outcomes, 1):
            if outcome.message:
                raise RuntimeError(outcome.message)
            Path(base / "out" / Path(outcome.report.output or "").name).unlink()  # disks are smaller than runs are long
            if done in counts:
                found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
            bar.show(done, counts[-1], "memory")
    return found
