"""The README.md of a finished training, in the Hugging Face hub's format."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from statistics import fmean

from ..model_cards import USES, figures, front_matter, table
from .config import TrainConfig
from .objective import Objective
from .tracking import read

#: Licences of the sources that the embedded model's recipe names, for manifests without a ``license`` column.
LICENSES = {"sfhq": "MIT", "sfhq_t2i": "MIT", "faker": "CC0-1.0", "voteview": "US government work"}
LAST = 100
"""Steps at the end of the log that the card's losses are means of."""


def model_card(objective: Objective, config: TrainConfig) -> str:
    """What was trained, on what and how, and how good it is.

    The sources are counted from the cache's ``rows.jsonl`` and the losses taken from the output folder's ``log.jsonl``.
    A ``figures.json`` in the output folder, as ``benchmarks/folder.py`` prints it, becomes the measured figures.
    """
    parts = [
        front_matter(objective.license),
        f"# {config.hub_model_id or config.output_dir.resolve().name}",
        objective.description,
        "## Training data",
        _data(config.train_data_dir),
        "## Training",
        _losses(config.output_dir),
        table(("option", "value"), [(f"`{name}`", value) for name, value in config.shown().items()]),
        "## Measured figures",
        figures(config.output_dir),
        USES,
    ]
    return "\n\n".join(parts)


def _data(cache: Path) -> str:
    """Photographs and crops of each source."""
    if not (cache / "rows.jsonl").is_file():
        return "Not recorded."
    files: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    crops: Counter[tuple[str, ...]] = Counter()
    for line in (cache / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        source = row.get("source") or "not stated"
        about = (source, row.get("kind") or "not stated", row.get("license") or LICENSES.get(source, "not stated"))
        files[about].add(row["file"])
        crops[about] += 1
    rows = [(*about, len(files[about]), count) for about, count in sorted(crops.items())]
    return table(("source", "kind", "licence", "photographs", "crops"), rows)


def _losses(folder: Path) -> str:
    """Means over the last steps."""
    rows = list(read(folder))
    if not rows:
        return "No step was logged."
    names = [name for name in rows[-1] if name not in ("step", "seconds", "lr")]
    means = [(name, fmean(row[name] for row in rows[-LAST:] if name in row)) for name in names]
    said = f"{int(rows[-1]['step'])} optimizer steps. Means over the last {min(LAST, len(rows))}:"
    return f"{said}\n\n{table(('figure', 'value'), means)}\n\nOptions:"
