"""Model card of a training, and its upload to the Hugging Face hub."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import huggingface_hub

from ..pipelines.publishing import TAGS, USES, figures, table
from .config import TrainConfig, read_log
from .generator import Objective

logger = logging.getLogger(__name__)

#: Licences of the sources in the built-in model's recipe, for manifests without a ``license`` column.
LICENSES = {"sfhq": "MIT", "sfhq_t2i": "MIT", "faker": "CC0-1.0", "voteview": "US government work"}
MEAN_OVER = 100
"""Number of last steps over which the card's losses are averaged."""
#: Files that are not uploaded: training states, encoded training faces and pictures of them.
PRIVATE = ("checkpoint-*", "partial-*", "encoded/*", "validation/*")


def model_card(objective: Objective, config: TrainConfig) -> str:
    """Return the model card of a training: models, data, options, losses and measured figures.

    Sources are counted from the cache's ``rows.jsonl``, losses averaged from the output folder's ``log.jsonl``, and
    measured figures read from a ``figures.json`` there, as ``benchmarks/folder.py`` prints it.
    """
    data = huggingface_hub.ModelCardData(license=objective.license, library_name="diffusers", tags=list(TAGS))
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {config.hub_model_id or config.output_dir.resolve().name}",
        objective.description,
        "## Training data",
        _source_table(config.train_data_dir),
        "## Training",
        _loss_table(config.output_dir),
        table(("option", "value"), [(f"`{name}`", value) for name, value in config.public_options().items()]),
        "## Measured figures",
        figures(config.output_dir),
        USES,
    ]
    return "\n\n".join(sections)


def _source_table(cache: Path) -> str:
    """Return the numbers of photographs and crops of each source."""
    if not (cache / "rows.jsonl").is_file():
        return "Not recorded."
    files: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    crops: Counter[tuple[str, ...]] = Counter()
    for line in (cache / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        source = row.get("source") or "not stated"
        key = (source, row.get("kind") or "not stated", row.get("license") or LICENSES.get(source, "not stated"))
        files[key].add(row["file"])
        crops[key] += 1
    rows = [(*key, len(files[key]), count) for key, count in sorted(crops.items())]
    return table(("source", "kind", "licence", "photographs", "crops"), rows)


def _loss_table(folder: Path) -> str:
    """Return the means of the logged figures over the last steps."""
    rows = list(read_log(folder))
    if not rows:
        return "No step was logged."
    names = [name for name in rows[-1] if name not in ("step", "seconds", "lr")]
    means = [(name, fmean(row[name] for row in rows[-MEAN_OVER:] if name in row)) for name in names]
    summary = f"{int(rows[-1]['step'])} optimizer steps. Means over the last {min(MEAN_OVER, len(rows))}:"
    return f"{summary}\n\n{table(('figure', 'value'), means)}\n\nOptions:"


def push(config: TrainConfig) -> None:
    """Upload ``output_dir``; a failure is a one-line warning, since the models are on disk."""
    name = config.hub_model_id or config.output_dir.resolve().name
    try:
        ignored = [*PRIVATE, f"{config.logging_dir}/*"]
        upload(config.output_dir, name, "End of training", token=config.hub_token, ignored=ignored)
    except Exception as error:  # of the hub's client, the network or the name: none may lose the result
        failure, folder = reason(error), config.output_dir
        logger.warning("--push_to_hub: %s was not uploaded (%s); the model is in %s", name, failure, folder)


def upload(folder: Path, name: str, message: str, *, token: str | None = None, ignored: Sequence[str] = ()) -> str:
    """Upload a folder to a hub repository, which is created if missing; return the repository's full name.

    Args:
        folder: uploaded in full.
        name: of the repository, with or without its owner.
        message: of the commit.
        token: for the upload; None uses the stored login.
        ignored: patterns of files that are not uploaded.
    """
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
    """Return an upload's failure as one line: the exception's class and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
