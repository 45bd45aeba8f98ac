"""Upload of a finished training to the Hugging Face hub."""

from __future__ import annotations

import logging

from .config import TrainConfig

#: What stays here: states to go on from, the encoded training faces, pictures of them, and the tracker's files.
PRIVATE = ("checkpoint-*", "partial-*", "encoded/*", "validation/*")

logger = logging.getLogger(__name__)


def push(config: TrainConfig) -> None:
    """Make the repository if need be and upload ``output_dir``; a failure is one warning, for the result is on disk."""
    import huggingface_hub

    name = config.hub_model_id or config.output_dir.resolve().name
    try:
        repository = huggingface_hub.create_repo(name, token=config.hub_token, exist_ok=True)
        huggingface_hub.upload_folder(
            repo_id=repository.repo_id,
            folder_path=config.output_dir,
            token=config.hub_token,
            commit_message="End of training",
            ignore_patterns=[*PRIVATE, f"{config.logging_dir}/*"],
        )
    except Exception as error:  # of the hub's client, of the network below it, of the name: none may cost the result
        reason = (str(error).strip().splitlines() or [""])[0]
        logger.warning(
            "--push_to_hub: %s was not uploaded (%s: %s); the model is in %s",
            name,
            type(error).__name__,
            reason,
            config.output_dir,
        )
