import multiprocessing
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.errors import DeidError
from deid_diffusion.identity import pseudonyms as store_module
from deid_diffusion.identity.keys import Key
from deid_diffusion.identity.pseudonyms import Pseudonyms, StoreRows
from tests.identity.stores import FACE, KEY, OTHER, execute, interrupt, open_store

# migration of formats 2 and 1; the file of format 2 was written by the code of that format

LEGACY = Path(__file__).parent / "data" / "store_format_2.sqlite"
LEGACY_PEOPLE = [  # pseudonym, seed, number of faces, donors of the people at the first three axes
    ("17a88d33c4c1bfd0", 7321824088688028037, 1, b""),
    ("1fdee4a604f99925", 3202945149657637246, 2, b"twelve bytes"),
    ("4d823362a6f9d8ad", 595840467918119564, 3, b""),
]


@pytest.fixture
def legacy_store(store: Path) -> Path:
    shutil.copyfile(LEGACY, store)
    store.chmod(0o600)
    return store


def check_migrated(store: Path, version: int = 2) -> None:
    pseudonyms = Pseudonyms.open(KEY, store)
    assert (pseudonyms.recogniser, pseudonyms.dimension, pseudonyms.threshold) == ("test", 8, 0.8)
    assert pseudonyms.people() == [(pseudonym, faces) for pseudonym, _, faces, _ in LEGACY_PEOPLE]
    for (pseudonym, seed, _, donors), vector in zip(LEGACY_PEOPLE, np.eye(8), strict=False):
        person = pseudonyms.person(vector)
        assert (person.id, person.seed(), person.new) == (pseudonym, seed, False)
        assert person.donors == (donors if version == 2 else b"")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("compacted", [True, False])
def test_migration(legacy_store: Path, version: int, compacted: bool, monkeypatch: pytest.MonkeyPatch):
    if version == 1:
        execute(legacy_store, "ALTER TABLE people DROP COLUMN donors")
        execute(legacy_store, "PRAGMA user_version = 1")
    if not compacted:  # as if the process were killed before
        monkeypatch.setattr(store_module, "compact", lambda path: None)
    centres = [centre for (centre,) in execute(legacy_store, "SELECT centre FROM people")]
    assert all(centre in legacy_store.read_bytes() for centre in centres)
    Pseudonyms.open(KEY, legacy_store)
    data = legacy_store.read_bytes()
    assert not [centre for centre in centres if centre[:8] in data or centre[-8:] in data]
    assert [path.name for path in legacy_store.parent.iterdir()] == [legacy_store.name]
    check_migrated(legacy_store, version)


@pytest.mark.parametrize(
    "damage",
    [
        "centre = zeroblob(31)",
        "centre = zeroblob(32)",
        f"centre = x'{'ff' * 32}'",
        "centre = 'text'",
        "faces = 0",
        "faces = 'x'",
        "cluster = 1",
    ],
)
def test_migration_refuses_damaged_rows(legacy_store: Path, damage: str):
    execute(legacy_store, f"UPDATE people SET {damage} WHERE faces = 2")
    before = legacy_store.read_bytes()
    with pytest.raises(DeidError, match="is damaged"):
        Pseudonyms.open(KEY, legacy_store)
    assert legacy_store.read_bytes() == before


def test_interrupted_migration(legacy_store: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(StoreRows, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            Pseudonyms.open(KEY, legacy_store)
    assert legacy_store.read_bytes() == LEGACY.read_bytes()
    check_migrated(legacy_store)


def killed_while_writing(store: Path) -> None:
    connection = sqlite3.connect(store, isolation_level=None)
    for statement in (
        "PRAGMA cache_size = 1",  # so that changed pages are written before the commit
        "BEGIN IMMEDIATE",
        "PRAGMA user_version = 3",
        "DROP TABLE people",
        "CREATE TABLE people (id BLOB PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID",
        *["INSERT INTO people VALUES (randomblob(16), randomblob(1000))"] * 200,
    ):
        connection.execute(statement)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_killed_migration_is_rolled_back(legacy_store: Path):
    process = multiprocessing.get_context("spawn").Process(target=killed_while_writing, args=(legacy_store,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert legacy_store.read_bytes() != LEGACY.read_bytes()
    check_migrated(legacy_store)


def test_concurrent_migration(legacy_store: Path):
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: Pseudonyms.open(KEY, legacy_store), range(8)))
    assert len({tuple(store.people()) for store in stores}) == 1
    check_migrated(legacy_store)


# refused files


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("key", "options", "words"),
    [
        (OTHER, {}, f"belongs to the key {KEY.fingerprint}, not to {OTHER.fingerprint}"),
        (KEY, {"recogniser": "another"}, r"embeddings of test \(8 numbers\), not of another"),
        (KEY, {"dimension": 128}, r"embeddings of test \(8 numbers\), not of test \(128\)"),
    ],
)
def test_other_stores_are_refused(store: Path, legacy: bool, key: Key, options: dict[str, object], words: str):
    if legacy:
        shutil.copyfile(LEGACY, store)
        store.chmod(0o600)
    else:
        open_store(store, dimension=8).person(np.eye(8)[0])
    before = store.read_bytes()
    with pytest.raises(DeidError, match=words) as caught:
        open_store(store, key, **{"dimension": 8, **options})
    assert "\n" not in str(caught.value)
    if key is OTHER:
        with pytest.raises(DeidError, match=words):
            Pseudonyms.open(key, store)
    assert store.read_bytes() == before


def foreign_database(path: Path) -> None:
    """Create a database of another program, whose last changes are still in its log."""
    with closing(sqlite3.connect(path.with_name("wal"))) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE about (fingerprint TEXT)")
        connection.commit()
        for end in ("", "-wal"):
            path.with_name(path.name + end).write_bytes(path.with_name("wal" + end).read_bytes())


def changed_store(statement: str) -> Callable[[Path], None]:
    def create(path: Path) -> None:
        open_store(path)
        execute(path, statement)

    return create


def overwritten_store(start: int, data: bytes) -> Callable[[Path], None]:
    """Return a function that creates a store cut off at a byte, with other data behind it."""

    def create(path: Path) -> None:
        open_store(path).person(FACE)
        path.write_bytes(path.read_bytes()[:start] + data)

    return create


@pytest.mark.parametrize(
    ("create", "words"),
    [
        (lambda path: path.write_text("a diary, not a database\n" * 99), "is not a store of people"),
        (Path.touch, "is not a store of people"),
        (foreign_database, "is not a store of people"),
        (changed_store("PRAGMA user_version = 4"), "newer deid-diffusion"),
        (overwritten_store(6144, b""), "is damaged"),
        (overwritten_store(4096, b"garbage!" * 1024), "is damaged"),
        (changed_store("DROP TABLE about"), "is damaged"),
        (changed_store("DELETE FROM about"), "is damaged"),
        (Path.mkdir, "is a folder"),
    ],
)
def test_refused_files_stay_unchanged(store: Path, create: Callable[[Path], object], words: str):
    create(store)
    if store.is_file():
        store.chmod(0o600)
    before = {path: path.read_bytes() for path in store.parent.iterdir() if path.is_file()}
    for action in (open_store, lambda path: Pseudonyms.open(KEY, path)):
        with pytest.raises(DeidError, match=words) as caught:
            action(store)
        assert str(caught.value).startswith(f"{store}: ")
        assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in store.parent.iterdir() if path.is_file()} == before


def test_unusable_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DeidError, match="folder does not exist"):
        open_store(tmp_path / "none/a.sqlite")
    with pytest.raises(DeidError, match="no such store"):
        Pseudonyms.open(KEY, tmp_path / "a.sqlite")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(DeidError, match="writing there is not allowed"):
            open_store(tmp_path / "a.sqlite")
    pseudonyms = open_store(tmp_path / "a.sqlite")
    if os.name == "posix":
        pseudonyms.store.chmod(0o640)
        with pytest.raises(DeidError, match="run chmod 600"):
            open_store(pseudonyms.store)
    pseudonyms.store.unlink()
    with pytest.raises(DeidError, match="cannot be opened"):
        pseudonyms.person(FACE)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_read_only_places(store: Path):
    pseudonyms = open_store(store)
    before = store.read_bytes()
    store.chmod(0o400)
    with pytest.raises(DeidError, match="writing there is not allowed"):
        pseudonyms.person(FACE)
    store.chmod(0o600)
    store.parent.chmod(0o500)
    try:
        with pytest.raises(DeidError, match=r"writing there is not allowed|its folder is writable"):
            pseudonyms.person(FACE)
        with pytest.raises(DeidError, match="writing there is not allowed"):
            open_store(store.with_name("new"))
    finally:
        store.parent.chmod(0o700)
    assert store.read_bytes() == before
