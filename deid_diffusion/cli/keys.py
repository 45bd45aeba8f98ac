"""The commands `deid-diffusion keys ...`: secret keys, and the people that pseudonyms were given to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .options import errors_as_exit_codes

keys_app = typer.Typer(
    help="Secret keys for pseudonyms: one person, one pseudonym, for whoever holds the key.", rich_markup_mode=None
)

_KeyFile = Annotated[Path, typer.Argument(metavar="KEYFILE")]
_Store = Annotated[Path, typer.Argument(metavar="STORE", help="A store of people.")]
_StoreKey = Annotated[Path, typer.Option("--key-file", metavar="KEYFILE", help="The key that STORE belongs to.")]


@keys_app.command()
def new(context: typer.Context, key_file: _KeyFile) -> None:
    """Make a random key in the new file KEYFILE, which only you can read."""
    with errors_as_exit_codes(context):
        from ..identity.keys import new_key

        key = new_key(key_file)
        typer.echo(f"{key_file}: new key {key.fingerprint}; whoever has it can link people's pseudonyms: keep it safe")


@keys_app.command()
def rotate(
    context: typer.Context,
    key_file: Annotated[Path, typer.Argument(metavar="KEYFILE", help="The key that the store belongs to.")],
    new_key_file: Annotated[Path, typer.Argument(metavar="NEWKEYFILE", help="A key made by `keys new`.")],
    store: Annotated[
        Path | None, typer.Option(metavar="STORE", show_default="KEYFILE.people.sqlite", help="The store of people.")
    ] = None,
) -> None:
    """Move a store to another key. Everybody is still recognised, and has a new pseudonym and a new face from then on.

    Without a copy of the old store, old and new pseudonyms cannot be linked.
    """
    with errors_as_exit_codes(context):
        from ..identity.keys import read_key
        from ..identity.pseudonyms import Pseudonyms, default_store

        key, newer, path = read_key(key_file), read_key(new_key_file), store or default_store(key_file)
        people = Pseudonyms.open(key, path).rotate(newer)
        typer.echo(f"{path}: {_people(people)} with new pseudonyms; it belongs to {new_key_file} ({newer.fingerprint})")
        if store is None:
            typer.echo(f"rename it to {default_store(new_key_file)}, or name it, where {new_key_file} is used")


@keys_app.command()
def forget(
    context: typer.Context,
    store: _Store,
    key_file: _StoreKey,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="Pseudonyms, as `keys list` shows them.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Forget everybody.")] = False,
) -> None:
    """Delete people from STORE, overwriting their data. Seen again, they get a new pseudonym. Photos stay as they are.

    If an ID is not in STORE, nobody is deleted. Copies and backups of STORE are yours to delete.
    """
    with errors_as_exit_codes(context):
        from ..identity.keys import read_key
        from ..identity.pseudonyms import Pseudonyms

        if bool(ids) == everybody:
            raise UsageError("whom to forget: name one ID or more, or pass --all (and not both)")
        pseudonyms = Pseudonyms.open(read_key(key_file), store)
        number = pseudonyms.forget_all() if everybody else pseudonyms.forget(*ids or ())
        left = len(pseudonyms.people())
        typer.echo(f"{store}: {_people(number)} forgotten, {left} left")


@keys_app.command(name="list")
def list_people(context: typer.Context, store: _Store, key_file: _StoreKey) -> None:
    """Show the pseudonym and the number of faces of everybody in STORE, one line for each."""
    with errors_as_exit_codes(context):
        from ..identity.keys import read_key
        from ..identity.pseudonyms import Pseudonyms

        for pseudonym, faces in Pseudonyms.open(read_key(key_file), store).people():
            typer.echo(f"{pseudonym} {faces}")


def _people(number: int) -> str:
    return f"{number} {'person' if number == 1 else 'people'}"
