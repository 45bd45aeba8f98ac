"""Upload of a finished training to the Hugging Face hub."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from ..pipelines.publishing import USES, figures, front_matter, table
from .config import TrainConfig, read_log
from .generator import Objective

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
        table(("option", "value"), [(f"`{name}`", value) for name, value in config.public_options().items()]),
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
    rows = list(read_log(folder))
    if not rows:
        return "No step was logged."
    names = [name for name in rows[-1] if name not in ("step", "seconds", "lr")]
    means = [(name, fmean(row[name] for row in rows[-LAST:] if name in row)) for name in names]
    said = f"{int(rows[-1]['step'])} optimizer steps. Means over the last {min(LAST, len(rows))}:"
    return f"{said}\n\n{table(('figure', 'value'), means)}\n\nOptions:"


#: What stays here: states to go on from, the encoded training faces, pictures of them, and the tracker's files.
PRIVATE = ("checkpoint-*", "partial-*", "encoded/*", "validation/*")

logger = logging.getLogger(__name__)


def push(config: TrainConfig) -> None:
    """Make the repository if need be and upload ``output_dir``; a failure is one warning, for the result is on disk."""
    name = config.hub_model_id or config.output_dir.resolve().name
    try:
        ignored = [*PRIVATE, f"{config.logging_dir}/*"]
        upload(config.output_dir, name, "End of training", token=config.hub_token, ignored=ignored)
    except Exception as error:  # of the hub's client, of the network below it, of the name: none may cost the result
        why, folder = reason(error), config.output_dir
        logger.warning("--push_to_hub: %s was not uploaded (%s); the model is in %s", name, why, folder)


def upload(folder: Path, name: str, message: str, *, token: str | None = None, ignored: Sequence[str] = ()) -> str:
    """Upload a folder to a repository of the hub, which is made if need be; its full name.

    Args:
        folder: all of it goes up.
        name: of the repository, with or without its owner.
        message: of the commit.
        token: to upload with; the stored login when None.
        ignored: patterns of files that stay here.
    """
    import huggingface_hub

    repository = huggingface_hub.create_repo(name, token=token, exist_ok=True)
    huggingface_hub.upload_folder(
        repo_id=repository.repo_id,
        folder_path=folder,
        token=token,
        commit_message=message,
        ignore_patterns=list(ignored),
    )
    return repository.repo_id


def reason(error: Exception) -> str:
    """An upload's failure in a line: the error's kind, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
