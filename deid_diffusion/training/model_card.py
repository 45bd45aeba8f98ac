"""The README.md of a finished training, in the Hugging Face hub's format."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from .config import TrainConfig
from .objective import Objective
from .tracking import read

#: Licences of the sources that the embedded model's recipe names, for manifests without a ``license`` column.
LICENSES = {"sfhq": "MIT", "sfhq_t2i": "MIT", "faker": "CC0-1.0", "voteview": "US government work"}
LAST = 100
"""Steps at the end of the log that the card's losses are means of."""

_USES = """\
## Intended use

A part of a pipeline that replaces faces in photos by different, realistic ones, so that photos can be shared or worked
on without showing the people's faces. Not for making pictures of real people, nor for deciding anything about a person.

## Limits

- De-identification of faces is not anonymisation of people: hair, clothes, body, place and company may still identify
  somebody. Whether a result is anonymous in law has to be judged for the whole data set.
- Faces made with one seed or key can be linked to each other; that is pseudonymisation (GDPR Art. 4(5)), not
  anonymisation.
- Faces that the training data lacks come out worse: look at the sources above, and at results of your own photos.
- Measured figures hold for the data and judges that they were measured with; another face recogniser may see more.
"""


def model_card(objective: Objective, config: TrainConfig) -> str:
    """What was trained, on what and how, and how good it is.

    The sources are counted from the cache's ``rows.jsonl`` and the losses taken from the output folder's ``log.jsonl``.
    A ``figures.json`` in the output folder, as ``benchmarks/folder.py`` prints it, becomes the measured figures.
    """
    front = ["license: " + objective.license, "library_name: diffusers", "tags:"]
    front += [f"- {tag}" for tag in ("deid-diffusion", "face-de-identification", "privacy")]
    parts = [
        "---\n" + "\n".join(front) + "\n---",
        f"# {config.hub_model_id or config.output_dir.resolve().name}",
        objective.description,
        "## Training data",
        _data(config.train_data_dir),
        "## Training",
        _losses(config.output_dir),
        _table(("option", "value"), [(f"`{name}`", value) for name, value in config.shown().items()]),
        "## Measured figures",
        _figures(config.output_dir / "figures.json"),
        _USES,
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
    return _table(("source", "kind", "licence", "photographs", "crops"), rows)


def _losses(folder: Path) -> str:
    """Means over the last steps."""
    rows = list(read(folder))
    if not rows:
        return "No step was logged."
    names = [name for name in rows[-1] if name not in ("step", "seconds", "lr")]
    means = [(name, fmean(row[name] for row in rows[-LAST:] if name in row)) for name in names]
    said = f"{int(rows[-1]['step'])} optimizer steps. Means over the last {min(LAST, len(rows))}:"
    return f"{said}\n\n{_table(('figure', 'value'), means)}\n\nOptions:"


def _figures(path: Path) -> str:
    if not path.is_file():
        return "None yet."
    return _table(("figure", "value"), [(f"`{name}`", value) for name, value in json.loads(path.read_text()).items()])


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    cells = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(one) for one in row)} |" for row in cells)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
