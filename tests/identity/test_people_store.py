"""The file of pseudonyms: locks, permissions, and files that are refused and left as they are."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.errors import DeidError
from deid_diffusion.identity import people_store
from deid_diffusion.identity.keys import Key
from deid_diffusion.identity.pseudonyms import Pseudonyms

KEY, OTHER = Key(bytes(range(32))), Key(bytes(range(1, 33)))
D = 64
FACE = np.eye(D, dtype=np.float32)[0]


def opened(store: Path, key: Key = KEY, **wishes: object) -> Pseudonyms:
    return Pseudonyms(key, store, **{"recogniser": "test", "dimension": D, "threshold": 0.8, **wishes})


def change(store: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute(statement, values)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "people.sqlite"


def test_a_locked_store_is_said(store: Path, monkeypatch: pytest.MonkeyPatch):
    pseudonyms = opened(store)
    person = pseudonyms.person(FACE)
    monkeypatch.setattr(people_store, "PATIENCE_S", 0.05)
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DeidError, match="another process keeps the store locked"):
            pseudonyms.person(FACE)
        assert pseudonyms.people() == [(person.id, 1)]
        with pytest.raises(DeidError, match=r"locked.*change is made.*VACUUM"):
            people_store.compact(store)
        other.execute("ROLLBACK")
        other.execute("BEGIN")
        other.execute("SELECT * FROM people").fetchone()
        for action in (pseudonyms.forget_all, lambda: pseudonyms.rotate(OTHER)):
            with pytest.raises(DeidError, match="locked"):
                action()
    assert pseudonyms.person(FACE).id == person.id


@pytest.mark.parametrize(
    ("key", "wishes", "words"),
    [
        (OTHER, {}, f"belongs to the key {KEY.fingerprint}, and this one is {OTHER.fingerprint}"),
        (KEY, {"recogniser": "another"}, "as test sees them .64 numbers., and this recogniser is another"),
        (KEY, {"dimension": 128}, "64 numbers.*128"),
    ],
)
def test_stores_of_other_things_are_refused(store: Path, key: Key, wishes: dict[str, object], words: str):
    opened(store).person(FACE)
    before = store.read_bytes()
    with pytest.raises(DeidError, match=words) as caught:
        opened(store, key, **wishes)
    assert "\n" not in str(caught.value)
    assert store.read_bytes() == before


def _text(path: Path) -> None:
    path.write_text("a diary, not a database\n" * 99)


def _empty(path: Path) -> None:
    path.touch()


def _foreign(path: Path) -> None:
    """A database of somebody else, whose last changes are in its log still."""
    with closing(sqlite3.connect(path.with_name("wal"))) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE about (fingerprint TEXT)")
        connection.commit()
        for end in ("", "-wal"):
            path.with_name(path.name + end).write_bytes(path.with_name("wal" + end).read_bytes())


def _newer(path: Path) -> None:
    opened(path)
    change(path, "PRAGMA user_version = 3")


def _half(path: Path) -> None:
    opened(path).person(FACE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _garbage(path: Path) -> None:
    opened(path).person(FACE)
    path.write_bytes(path.read_bytes()[:4096] + b"garbage!" * 1024)


def _no_table(path: Path) -> None:
    opened(path)
    change(path, "DROP TABLE about")


def _no_word_of_itself(path: Path) -> None:
    opened(path)
    change(path, "DELETE FROM about")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_text, "is not a store of people"),
        (_empty, "is not a store of people"),
        (_foreign, "is not a store of people"),
        (_newer, "newer deid-diffusion"),
        (_half, "is damaged"),
        (_garbage, "is damaged"),
        (_no_table, "is damaged"),
        (_no_word_of_itself, "is damaged"),
        (Path.mkdir, "is a folder"),
    ],
)
def test_files_that_are_no_store_stay_as_they_are(store: Path, make, words: str):
    make(store)
    if store.is_file():
        store.chmod(0o600)
    before = {path: path.read_bytes() for path in store.parent.iterdir() if path.is_file()}
    for action in (opened, lambda path: Pseudonyms.open(KEY, path)):
        with pytest.raises(DeidError, match=words) as caught:
            action(store)
        assert str(caught.value).startswith(f"{store}: ")
        assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in store.parent.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("what", "value"),
    [("centre", b"\0" * 255), ("centre", b"\0" * 256), ("centre", b"\xff" * 256), ("faces", 0), ("faces", "x")],
)
def test_damaged_rows_are_refused(store: Path, what: str, value: object):
    pseudonyms = opened(store)
    pseudonyms.person(FACE)
    change(store, f"UPDATE people SET {what} = ?", value)
    before = store.read_bytes()
    for action in (lambda: pseudonyms.person(FACE), pseudonyms.people, lambda: pseudonyms.rotate(OTHER)):
        with pytest.raises(DeidError, match="is damaged"):
            action()
    assert store.read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_store_open_to_others_is_refused(store: Path):
    opened(store)
    store.chmod(0o640)
    with pytest.raises(DeidError, match="run chmod 600"):
        opened(store)


def test_places_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DeidError, match="folder does not exist"):
        opened(tmp_path / "none/a.sqlite")
    with pytest.raises(DeidError, match="no such store"):
        Pseudonyms.open(KEY, tmp_path / "a.sqlite")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DeidError, match="writing there is not allowed"):
        opened(tmp_path / "a.sqlite")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_places_that_cannot_be_written(store: Path):
    pseudonyms = opened(store)
    before = store.read_bytes()
    store.chmod(0o400)
    with pytest.raises(DeidError, match="writing there is not allowed"):
        pseudonyms.person(FACE)
    store.chmod(0o600)
    store.parent.chmod(0o500)
    try:
        with pytest.raises(DeidError, match=r"writing there is not allowed|its folder may be written to"):
            pseudonyms.person(FACE)
        with pytest.raises(DeidError, match="writing there is not allowed"):
            opened(store.with_name("new"))
    finally:
        store.parent.chmod(0o700)
    assert store.read_bytes() == before


def test_a_store_that_vanishes_is_not_made_again(store: Path):
    pseudonyms = opened(store)
    store.unlink()
    with pytest.raises(DeidError, match="cannot be opened"):
        pseudonyms.person(FACE)
    assert not store.exists()
