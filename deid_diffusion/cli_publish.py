"""The command that makes a model ready for the Hugging Face hub, and uploads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deid_diffusion.cli_errors import errors_as_exit_codes
from deid_diffusion.errors import DeidError, UsageError, one_line


def publish(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder written by save_pretrained, or builtin.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="New folder of the publication.")],
    license: Annotated[
        str | None, typer.Option(metavar="ID", help="Of the weights, as the hub calls it; if MODEL has no README.md.")
    ] = None,
    repo_id: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to this repository, with your stored login.")
    ] = None,
) -> None:
    """Write MODEL as a folder for the hub: its parts, the shims that load it anywhere, and a model card.

    No weights in pickles go in. Read the card and complete it before others do.
    """
    with errors_as_exit_codes(context):
        from deid_diffusion.loading import BUILTIN
        from deid_diffusion.publishing import write_publication

        if repo_id is not None:
            _check_name(repo_id)
        folder = BUILTIN if model == "builtin" else Path(model)
        write_publication(folder, out, license=license, name=repo_id)
        typer.echo(str(out))
        if repo_id is not None:
            from deid_diffusion.training.hub import reason, upload

            try:
                typer.echo(f"uploaded to {upload(out, repo_id, 'A deid-diffusion pipeline')}")
            except Exception as error:  # of the hub's client, of the network below it, of the name
                raise DeidError(
                    f"{out} is complete, but was not uploaded ({reason(error)}): hf upload {repo_id} {out}"
                ) from error


def _check_name(repo_id: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(
            f"--repo-id {one_line(repo_id)}: expected OWNER/NAME, of letters, digits, -, _ and ."
        ) from error
