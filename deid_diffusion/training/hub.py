"""Upload of a finished training to the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from .config import TrainConfig

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
