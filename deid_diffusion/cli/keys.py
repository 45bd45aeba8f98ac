"""Commands `deid-diffusion keys ...`: secret keys, and stores of pseudonyms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError

keys_app = typer.Typer(
    help="Secret keys for pseudonyms: one pseudonym per person, linkable by holders of the key.", rich_markup_mode=None
)

_KeyFile = Annotated[Path, typer.Argument(metavar="KEYFILE")]
_Store = Annotated[Path, typer.Argument(metavar="STORE", help="Store of pseudonyms.")]
_StoreKey = Annotated[Path, typer.Option("--key-file", metavar="KEYFILE", help="Key of STORE.")]


@keys_app.command()
def new(key_file: _KeyFile) -> None:
    """Create a random key in the new file KEYFILE, readable by you alone."""
    from ..identity.keys import new_key

    key = new_key(key_file)
    typer.echo(f"{key_file}: new key {key.fingerprint}; it links people to pseudonyms: keep it secret")


@keys_app.command()
def rotate(
    key_file: Annotated[Path, typer.Argument(metavar="KEYFILE", help="Key of the store.")],
    new_key_file: Annotated[Path, typer.Argument(metavar="NEWKEYFILE", help="New key, created by `keys new`.")],
    store: Annotated[
        Path | None, typer.Option(metavar="STORE", show_default="KEYFILE.people.sqlite", help="Store of pseudonyms.")
    ] = None,
) -> None:
    """Move a store to another key. People are still recognised, with new pseudonyms and new faces from then on.

    Without a copy of the old store, old and new pseudonyms cannot be linked.
    """
    from ..identity.keys import read_key
    from ..identity.pseudonyms import Pseudonyms, default_store

    key, newer, path = read_key(key_file), read_key(new_key_file), store or default_store(key_file)
    people = Pseudonyms.open(key, path).rotate(newer)
    typer.echo(f"{path}: {_people(people)} with new pseudonyms; its key is now {new_key_file} ({newer.fingerprint})")
    if store is None:
        typer.echo(f"rename it to {default_store(new_key_file)}, or pass it as --store with {new_key_file}")


@keys_app.command()
def forget(
    store: _Store,
    key_file: _StoreKey,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="Pseudonyms, as `keys list` shows them.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Delete all people.")] = False,
) -> None:
    """Delete people from STORE, overwriting their data. They get new pseudonyms if seen again; photos do not change.

    If an ID is not in STORE, nothing is deleted. Copies and backups of STORE are not touched.
    """
    from ..identity.keys import read_key
    from ..identity.pseudonyms import Pseudonyms

    if bool(ids) == everybody:
        raise UsageError("nobody to forget: give either pseudonyms or --all")
    pseudonyms = Pseudonyms.open(read_key(key_file), store)
    number = pseudonyms.forget_all() if everybody else pseudonyms.forget(*ids or ())
    typer.echo(f"{store}: {_people(number)} forgotten, {len(pseudonyms.people())} left")


@keys_app.command(name="list")
def list_people(store: _Store, key_file: _StoreKey) -> None:
    """Print the pseudonyms in STORE, one per line, with their numbers of faces."""
    from ..identity.keys import read_key
    from ..identity.pseudonyms import Pseudonyms

    for pseudonym, faces in Pseudonyms.open(read_key(key_file), store).people():
        typer.echo(f"{pseudonym} {faces}")


def _people(number: int) -> str:
    return f"{number} {'person' if number == 1 else 'people'}"
