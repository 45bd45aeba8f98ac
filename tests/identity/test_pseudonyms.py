"""Tests of the pseudonym store: identities, encryption, migration, locks and refused files."""

from __future__ import annotations

import hashlib
import hmac
import multiprocessing
import os
import pickle
import shutil
import signal
import sqlite3
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.errors import DeidError
from deid_diffusion.identity import pseudonyms as store_module
from deid_diffusion.identity.keys import Key
from deid_diffusion.identity.pseudonyms import Pseudonyms, StoreRows, default_store

KEY, OTHER = Key(bytes(range(32))), Key(bytes(range(1, 33)))
D = 64
POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions and signals")


def open_store(store: Path, key: Key = KEY, **options: object) -> Pseudonyms:
    return Pseudonyms(key, store, **{"recogniser": "test", "dimension": D, "threshold": 0.8, **options})


def execute(store: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute(statement, values)


def records(store: Path) -> dict[str, tuple[bytes, bytes]]:
    """Pseudonym -> (row ID, encrypted row)."""
    with closing(sqlite3.connect(store)) as connection:
        rows = connection.execute("SELECT id, data FROM people").fetchall()
    return {KEY.derive("person", row_id).hex()[:16]: (row_id, data) for row_id, data in rows}


def strangers(number: int) -> np.ndarray:
    """(N, D) float32 of length 1, with cosines near 0."""
    vectors = np.random.default_rng(0).normal(size=(number, D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def variant(vector: np.ndarray, seed: int) -> np.ndarray:
    """Another photo of the same person: cosine 0.95."""
    noise = np.random.default_rng(1000 + seed).normal(size=D)
    noise -= (noise @ vector) * vector
    return (0.95 * vector + np.sqrt(1 - 0.95**2) * noise / np.linalg.norm(noise)).astype(np.float32)


FACE = strangers(1)[0]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "a#b %20?.sqlite"  # characters with a meaning in SQLite's URIs


# identities


def test_one_pseudonym_per_person(store: Path):
    people = strangers(5)
    first = [open_store(store).person(vector) for vector in people]
    assert all(person.new for person in first)
    assert len({person.id for person in first}) == 5
    assert all(len(person.id) == 16 and int(person.id, 16) >= 0 for person in first)
    for k, vector in enumerate(people):
        person = open_store(store).person(variant(vector, 100 + k))
        assert (person.id, person.new, person.seed(3)) == (first[k].id, False, first[k].seed(3))
    assert open_store(store).people() == sorted((person.id, 2) for person in first)


def test_centre_is_mean_of_faces(store: Path):
    faces = [variant(FACE, k) for k in range(20)]
    pseudonyms = open_store(store)
    assert [pseudonyms.person(face).new for face in faces] == [True] + 19 * [False]
    with store_module.transaction(store, write=False) as (connection, header):
        (row,), (centre,) = StoreRows(connection, store, KEY, header).read()
    mean = np.mean(faces, 0) / np.linalg.norm(np.mean(faces, 0))
    assert row.faces == 20
    assert centre @ mean > 0.99  # the mean of renormalised means weighs the faces a little differently
    assert centre @ FACE > 0.99


def test_threshold(store: Path):
    pseudonyms = open_store(store, threshold=0.96)
    assert pseudonyms.person(FACE).new
    assert pseudonyms.person(variant(FACE, 1)).new
    assert not open_store(store, threshold=0.94).person(variant(FACE, 1)).new


def test_seed(store: Path):
    a, b = (open_store(store).person(vector) for vector in strangers(2))
    seeds = [person.seed(attempt) for person in (a, b) for attempt in range(50)]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
    assert a.seed() == a.seed(0)
    parts = (b"deid-diffusion keys 1", b"seed", records(store)[a.id][0], (7).to_bytes(8, "big"))
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    digest = hmac.new(KEY.secret, message, hashlib.sha256).digest()
    assert a.seed(7) == int.from_bytes(digest[:8], "big") // 2
    with pytest.raises(ValueError, match="attempt"):
        a.seed(-1)


def test_remember_keeps_first_donors(store: Path):
    pseudonyms = open_store(store)
    person = pseudonyms.person(FACE)
    assert person.donors == b""
    assert pseudonyms.remember(person, b"first") == b"first"
    assert pseudonyms.remember(person, b"second") == b"first"
    assert pseudonyms.person(FACE).donors == b"first"
    with pytest.raises(ValueError, match="at most 32 bytes, got 33"):
        pseudonyms.remember(person, bytes(33))
    pseudonyms.forget_all()
    assert pseudonyms.remember(person, b"third") == b""


def test_open_reads_header(store: Path):
    person = open_store(store, threshold=0.7).person(FACE)
    pseudonyms = Pseudonyms.open(KEY, str(store))
    assert (pseudonyms.recogniser, pseudonyms.dimension, pseudonyms.threshold) == ("test", D, 0.7)
    assert pseudonyms.person(FACE).id == person.id


def test_default_store_is_beside_key():
    assert default_store("keys/team.key") == Path("keys/team.key.people.sqlite")


@pytest.mark.parametrize("options", [{"dimension": 1}, {"dimension": 9999}, {"threshold": 1.1}, {"threshold": np.nan}])
def test_options_out_of_range(store: Path, options: dict[str, object]):
    with pytest.raises(ValueError, match="expected 2 to 2048"):
        open_store(store, **options)
    assert not store.exists()


@pytest.mark.parametrize("wrong", [np.zeros(D), np.full(D, np.nan), 2 * FACE, strangers(1), np.ones(3)])
def test_invalid_embeddings(store: Path, wrong: np.ndarray):
    with pytest.raises(ValueError, match="embedding: expected"):
        open_store(store).person(wrong)
    assert open_store(store).people() == []


# encryption


def test_store_reveals_nothing_without_key(tmp_path: Path):
    paths = tmp_path / "a", tmp_path / "b"
    faces = [FACE, variant(FACE, 3), FACE, FACE]  # two people under this threshold, the first seen three times
    people = [[open_store(path, threshold=0.99).person(face) for face in faces] for path in paths]
    open_store(paths[0]).remember(people[0][0], b"donors")
    data = paths[0].read_bytes()
    for person, vector in zip(people[0], faces, strict=True):
        texts = (person.id, str(person.seed()), person.id[:8])
        assert not [text for text in texts if text.encode() in data or bytes.fromhex(text[:8]) in data]
        assert vector.tobytes()[:8] not in data
    assert b"donors" not in data
    rows = [row for path in paths for _, row in records(path).values()]
    assert len({len(row) for row in rows}) == 1  # neither the number of faces nor the donors show
    codes = np.array([np.frombuffer(row[-4 * D - 16 : -16], np.uint8) for row in rows], float)
    assert abs(np.corrcoef(codes) - np.eye(4)).max() < 0.35  # 5.6 sigma of 256 independent bytes
    assert {person.id for person in people[0]}.isdisjoint(person.id for person in people[1])
    assert repr(people[0][0]) == f"Person(id='{people[0][0].id}', new=True)"
    if os.name == "posix":
        assert stat.S_IMODE(paths[0].stat().st_mode) == 0o600


def test_each_write_takes_a_new_nonce(store: Path):
    nonces = set()
    for _ in range(20):
        person = open_store(store).person(FACE)
        nonces.add(records(store)[person.id][1][:12])
    assert len(nonces) == 20


def _flip_bit(store: Path) -> None:
    ((row_id, data), *_) = records(store).values()
    execute(store, "UPDATE people SET data = ? WHERE id = ?", data[:30] + bytes([data[30] ^ 1]) + data[31:], row_id)


def _swap_rows(store: Path) -> None:
    (a, first), (b, second) = records(store).values()
    execute(store, "UPDATE people SET data = CASE id WHEN ? THEN ? WHEN ? THEN ? END", a, second, b, first)


def _copy_from_other_store(store: Path) -> None:
    other = open_store(store.with_name("other"))
    other.person(FACE)
    ((row_id, data),) = records(other.store).values()
    execute(store, "INSERT INTO people VALUES (?, ?)", row_id, data)


@pytest.mark.parametrize(
    "damage",
    [
        _flip_bit,
        _swap_rows,
        _copy_from_other_store,
        lambda store: execute(store, "UPDATE people SET data = x'00'"),
        lambda store: execute(store, "UPDATE people SET data = 'text'"),
        lambda store: execute(store, "UPDATE people SET id = 'text' || hex(id)"),
    ],
)
def test_damaged_rows(store: Path, damage: Callable[[Path], None]):
    pseudonyms = open_store(store)
    for vector in strangers(2):
        pseudonyms.person(vector)
    damage(store)
    before = store.read_bytes()
    for action in (lambda: pseudonyms.person(FACE), pseudonyms.people, lambda: pseudonyms.rotate(OTHER)):
        with pytest.raises(DeidError, match="is damaged") as caught:
            action()
        assert "\n" not in str(caught.value)
    assert store.read_bytes() == before


@pytest.mark.parametrize(("column", "value"), [("dimension", 32), ("recogniser", "another"), ("salt", bytes(16))])
def test_header_is_authenticated(store: Path, column: str, value: object):
    open_store(store).person(FACE)
    execute(store, f"UPDATE about SET {column} = ?", value)
    with pytest.raises(DeidError, match="is damaged"):
        Pseudonyms.open(KEY, store).people()


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


def downgrade(store: Path) -> None:
    execute(store, "ALTER TABLE people DROP COLUMN donors")
    execute(store, "PRAGMA user_version = 1")


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
        downgrade(legacy_store)
    if not compacted:  # as if the process were killed before
        monkeypatch.setattr(store_module, "compact", lambda path: None)
    with closing(sqlite3.connect(legacy_store)) as connection:
        centres = [centre for (centre,) in connection.execute("SELECT centre FROM people")]
    assert all(centre in legacy_store.read_bytes() for centre in centres)
    Pseudonyms.open(KEY, legacy_store)
    data = legacy_store.read_bytes()
    assert not [centre for centre in centres if centre[:8] in data or centre[-8:] in data]
    assert [path.name for path in legacy_store.parent.iterdir()] == [legacy_store.name]
    check_migrated(legacy_store, version)


@pytest.mark.parametrize(
    ("key", "options", "words"),
    [(OTHER, {"dimension": 8}, "belongs to the key"), (KEY, {}, "test .8 numbers., not of test .64.")],
)
def test_migration_refuses_other_stores(legacy_store: Path, key: Key, options: dict[str, int], words: str):
    with pytest.raises(DeidError, match=words):
        open_store(legacy_store, key, **options)
    assert legacy_store.read_bytes() == LEGACY.read_bytes()


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


def test_interrupted_migration_changes_nothing(legacy_store: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(StoreRows, "write", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            Pseudonyms.open(KEY, legacy_store)
    assert legacy_store.read_bytes() == LEGACY.read_bytes()
    check_migrated(legacy_store)


def _killed_while_writing(store: Path) -> None:
    connection = sqlite3.connect(store, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")  # so that changed pages are written before the commit
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("PRAGMA user_version = 3")
    connection.execute("DROP TABLE people")
    connection.execute("CREATE TABLE people (id BLOB PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID")
    for _ in range(200):
        connection.execute("INSERT INTO people VALUES (randomblob(16), randomblob(1000))")
    os.kill(os.getpid(), signal.SIGKILL)


@POSIX
def test_killed_migration_is_rolled_back(legacy_store: Path):
    process = multiprocessing.get_context("spawn").Process(target=_killed_while_writing, args=(legacy_store,))
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


# locks and concurrency


def test_locked_store(store: Path, monkeypatch: pytest.MonkeyPatch):
    pseudonyms = open_store(store)
    person = pseudonyms.person(FACE)
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DeidError, match="is locked by another process"):
            pseudonyms.person(FACE)
        assert pseudonyms.people() == [(person.id, 1)]
        with pytest.raises(DeidError, match=r"locked.*change is saved.*VACUUM"):
            store_module.compact(store)
        other.execute("ROLLBACK")
        other.execute("BEGIN")
        other.execute("SELECT * FROM people").fetchone()
        for action in (pseudonyms.forget_all, lambda: pseudonyms.rotate(OTHER)):
            with pytest.raises(DeidError, match="locked"):
                action()
    assert pseudonyms.person(FACE).id == person.id


def test_pickle_and_threads(store: Path):
    pseudonyms = pickle.loads(pickle.dumps(open_store(store)))
    people = strangers(5)
    with ThreadPoolExecutor(4) as pool:
        persons = list(pool.map(pseudonyms.person, [variant(people[k % 5], k) for k in range(40)]))
    assert sum(person.new for person in persons) == 5
    assert [count for _, count in pseudonyms.people()] == [8] * 5


def _worker(store: Path, barrier, faces: np.ndarray, answers) -> None:
    barrier.wait()
    pseudonyms = open_store(store)
    answers.put([pseudonyms.person(face).id for face in faces])


def test_processes(store: Path):
    """Two create the store at once, and meet ten people in the same order and five more of their own."""
    people = strangers(20)
    orders = [np.concatenate([people[:10], people[10:15]]), np.concatenate([people[:10], people[15:]])]
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    workers = []
    for k, order in enumerate(orders):
        faces = np.array([variant(vector, 50 * k + j) for j, vector in enumerate(order)])
        workers.append(context.Process(target=_worker, args=(store, barrier, faces, answers)))
        workers[-1].start()
    ids = [answers.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert ids[0][:10] == ids[1][:10]
    everybody = {*ids[0], *ids[1]}
    assert len(everybody) == 20
    assert dict(open_store(store).people()) == {pseudonym: 1 + (pseudonym in ids[0][:10]) for pseudonym in everybody}
    assert [path.name for path in store.parent.iterdir()] == [store.name]


# key rotation


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_rotate_unlinks(store: Path):
    people = strangers(6)
    old = open_store(store)
    before = [old.person(vector) for vector in people]
    old.remember(old.person(people[0]), b"donors")
    stale, old_records = open_store(store), records(store)
    assert old.rotate(OTHER) == 6
    data = store.read_bytes()
    assert not [part for record in old_records.values() for part in record if part in data]
    new = open_store(store, OTHER, threshold=0.99999)  # centres are kept exactly
    after = [new.person(vector) for vector in people]
    assert not any(person.new or person.donors for person in after)
    assert not {person.id for person in before} & {person.id for person in after}
    assert not {person.seed() for person in before} & {person.seed() for person in after}
    assert sorted(count for _, count in new.people()) == [2, 2, 2, 2, 2, 3]
    assert old.person(people[0]).id == after[0].id  # the instance that rotated goes on with the new key
    assert not records(store).keys() & {person.id for person in before}  # not even with the old key
    for action in (lambda: open_store(store), lambda: stale.person(people[0])):  # also in a running process
        with pytest.raises(DeidError, match="belongs to the key"):
            action()


def test_failed_rotate_changes_nothing(store: Path, monkeypatch: pytest.MonkeyPatch):
    pseudonyms = open_store(store)
    person = pseudonyms.person(FACE)
    before = store.read_bytes()
    with pytest.raises(DeidError, match="already belongs to this key"):
        pseudonyms.rotate(Key(KEY.secret))
    monkeypatch.setattr(StoreRows, "write", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        pseudonyms.rotate(OTHER)
    assert store.read_bytes() == before
    assert pseudonyms.people() == [(person.id, 1)]


# deletion


@pytest.mark.parametrize("compacted", [True, False])
def test_forget_overwrites_bytes(store: Path, compacted: bool, monkeypatch: pytest.MonkeyPatch):
    if not compacted:
        monkeypatch.setattr(store_module, "compact", lambda path: None)
    pseudonyms = open_store(store)
    people = strangers(40)
    ids = [pseudonyms.person(vector).id for vector in people]
    before = records(store)
    assert all(part in store.read_bytes() for record in before.values() for part in record)
    size = store.stat().st_size
    assert pseudonyms.forget(ids[3], ids[7], ids[3]) == 2
    data = store.read_bytes()
    for pseudonym in ids:
        assert [part in data for part in before[pseudonym]] == 2 * [pseudonym not in (ids[3], ids[7])]
    assert not [k for k in (3, 7) if before[ids[k]][1][:16] in data or before[ids[k]][1][-16:] in data]
    assert [pseudonym for pseudonym, _ in pseudonyms.people()] == sorted(set(ids) - {ids[3], ids[7]})
    person = pseudonyms.person(people[3])
    assert person.new
    assert person.id not in ids
    assert pseudonyms.forget_all() == 39
    assert pseudonyms.people() == []
    assert (store.stat().st_size < size) == compacted
    assert not [pseudonym for pseudonym in ids if before[pseudonym][1][:16] in store.read_bytes()]
    assert [path.name for path in store.parent.iterdir()] == [store.name]


def test_moved_centre_leaves_no_trace(store: Path):
    pseudonyms = open_store(store)
    pseudonyms.person(FACE)
    ((_, data),) = records(store).values()
    pseudonyms.person(variant(FACE, 1))
    assert data[:16] not in store.read_bytes()
    assert data[-16:] not in store.read_bytes()


def test_forget_unknown_pseudonym(store: Path):
    pseudonyms = open_store(store)
    person = pseudonyms.person(FACE)
    before = store.read_bytes()
    with pytest.raises(DeidError, match="unknown pseudonym 0123: nobody was deleted"):
        pseudonyms.forget(person.id, "0123")
    assert store.read_bytes() == before


# refused files


@pytest.mark.parametrize(
    ("key", "options", "words"),
    [
        (OTHER, {}, f"belongs to the key {KEY.fingerprint}, not to {OTHER.fingerprint}"),
        (KEY, {"recogniser": "another"}, "embeddings of test .64 numbers., not of another"),
        (KEY, {"dimension": 128}, "64 numbers.*128"),
    ],
)
def test_other_stores_are_refused(store: Path, key: Key, options: dict[str, object], words: str):
    open_store(store).person(FACE)
    before = store.read_bytes()
    with pytest.raises(DeidError, match=words) as caught:
        open_store(store, key, **options)
    assert "\n" not in str(caught.value)
    assert store.read_bytes() == before
    if key is OTHER:
        with pytest.raises(DeidError, match=words):
            Pseudonyms.open(key, store)


def _foreign_database(path: Path) -> None:
    """A database of another program, whose last changes are still in its log."""
    with closing(sqlite3.connect(path.with_name("wal"))) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE about (fingerprint TEXT)")
        connection.commit()
        for end in ("", "-wal"):
            path.with_name(path.name + end).write_bytes(path.with_name("wal" + end).read_bytes())


def _changed_store(statement: str) -> Callable[[Path], None]:
    def create(path: Path) -> None:
        open_store(path)
        execute(path, statement)

    return create


def _overwritten_store(start: int, data: bytes) -> Callable[[Path], None]:
    """A store cut off at a byte, with other data behind it."""

    def create(path: Path) -> None:
        open_store(path).person(FACE)
        path.write_bytes(path.read_bytes()[:start] + data)

    return create


@pytest.mark.parametrize(
    ("create", "words"),
    [
        (lambda path: path.write_text("a diary, not a database\n" * 99), "is not a store of people"),
        (Path.touch, "is not a store of people"),
        (_foreign_database, "is not a store of people"),
        (_changed_store("PRAGMA user_version = 4"), "newer deid-diffusion"),
        (_overwritten_store(6144, b""), "is damaged"),
        (_overwritten_store(4096, b"garbage!" * 1024), "is damaged"),
        (_changed_store("DROP TABLE about"), "is damaged"),
        (_changed_store("DELETE FROM about"), "is damaged"),
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


@POSIX
def test_store_open_to_others(store: Path):
    open_store(store)
    store.chmod(0o640)
    with pytest.raises(DeidError, match="run chmod 600"):
        open_store(store)


def test_unusable_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DeidError, match="folder does not exist"):
        open_store(tmp_path / "none/a.sqlite")
    with pytest.raises(DeidError, match="no such store"):
        Pseudonyms.open(KEY, tmp_path / "a.sqlite")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DeidError, match="writing there is not allowed"):
        open_store(tmp_path / "a.sqlite")
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


def test_missing_store_is_not_recreated(store: Path):
    pseudonyms = open_store(store)
    store.unlink()
    with pytest.raises(DeidError, match="cannot be opened"):
        pseudonyms.person(FACE)
    assert not store.exists()
