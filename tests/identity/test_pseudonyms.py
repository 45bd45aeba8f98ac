import hashlib
import hmac
import multiprocessing
import os
import pickle
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
from tests.identity.stores import FACE, KEY, OTHER, D, execute, interrupt, open_store, records, strangers, variant

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


def test_centre_and_threshold(store: Path):
    faces = [variant(FACE, k) for k in range(20)]
    pseudonyms = open_store(store)
    assert [pseudonyms.person(face).new for face in faces] == [True] + 19 * [False]
    with store_module.transaction(store, write=False) as (connection, header):
        (row,), (centre,) = StoreRows(connection, store, KEY, header).read()
    mean = np.mean(faces, 0) / np.linalg.norm(np.mean(faces, 0))
    assert row.faces == 20
    assert min(centre @ mean, centre @ FACE) > 0.99  # renormalisation weighs the faces a little differently
    pseudonyms = open_store(store.with_name("strict"), threshold=0.96)
    assert all(pseudonyms.person(face).new for face in (FACE, variant(FACE, 1)))
    assert not open_store(pseudonyms.store, threshold=0.94).person(variant(FACE, 1)).new


def test_seed(store: Path):
    first, second = (open_store(store).person(vector) for vector in strangers(2))
    seeds = [person.seed(attempt) for person in (first, second) for attempt in range(50)]
    assert len(set(seeds)) == 100
    assert min(seeds) >= 0
    assert 2**62 < max(seeds) < 2**63
    assert first.seed() == first.seed(0)
    parts = (b"deid-diffusion keys 1", b"seed", records(store)[first.id][0], (7).to_bytes(8, "big"))
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    digest = hmac.new(KEY.secret, message, hashlib.sha256).digest()
    assert first.seed(7) == int.from_bytes(digest[:8], "big") // 2
    with pytest.raises(ValueError, match="attempt"):
        first.seed(-1)


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
    assert default_store("keys/team.key") == Path("keys/team.key.people.sqlite")


@pytest.mark.parametrize("options", [{"dimension": 1}, {"dimension": 9999}, {"threshold": 1.1}, {"threshold": np.nan}])
def test_options_out_of_range(store: Path, options: dict[str, object]):
    with pytest.raises(ValueError, match="expected 2 to 2048"):
        open_store(store, **options)
    assert not store.exists()


@pytest.mark.parametrize("embedding", [np.zeros(D), np.full(D, np.nan), 2 * FACE, strangers(1), np.ones(3)])
def test_invalid_embeddings(store: Path, embedding: np.ndarray):
    with pytest.raises(ValueError, match="embedding: expected"):
        open_store(store).person(embedding)
    assert open_store(store).people() == []


# encryption


def test_encryption(tmp_path: Path):
    paths = tmp_path / "a", tmp_path / "b"
    faces = [FACE, variant(FACE, 3), FACE, FACE]  # two people under this threshold, the first seen three times
    people, others = ([open_store(path, threshold=0.99).person(face) for face in faces] for path in paths)
    open_store(paths[0]).remember(people[0], b"donors")
    data = paths[0].read_bytes()
    for person, vector in zip(people, faces, strict=True):
        texts = (person.id, str(person.seed()), person.id[:8])
        assert not [text for text in texts if text.encode() in data or bytes.fromhex(text[:8]) in data]
        assert vector.tobytes()[:8] not in data
    assert b"donors" not in data
    rows = [row for path in paths for _, row in records(path).values()]
    assert len({len(row) for row in rows}) == 1  # neither the number of faces nor the donors show
    codes = np.array([np.frombuffer(row[-4 * D - 16 : -16], np.uint8) for row in rows], float)
    assert abs(np.corrcoef(codes) - np.eye(4)).max() < 0.35  # 5.6 sigma of 256 independent bytes
    assert {person.id for person in people}.isdisjoint(person.id for person in others)
    assert repr(people[0]) == f"Person(id='{people[0].id}', new=True)"
    if os.name == "posix":
        assert stat.S_IMODE(paths[0].stat().st_mode) == 0o600


def flip_bit(store: Path) -> None:
    ((row_id, data), *_) = records(store).values()
    execute(store, "UPDATE people SET data = ? WHERE id = ?", data[:30] + bytes([data[30] ^ 1]) + data[31:], row_id)


def swap_rows(store: Path) -> None:
    (a, first), (b, second) = records(store).values()
    execute(store, "UPDATE people SET data = CASE id WHEN ? THEN ? WHEN ? THEN ? END", a, second, b, first)


def copy_from_other_store(store: Path) -> None:
    other = open_store(store.with_name("other"))
    other.person(FACE)
    (row,) = records(other.store).values()
    execute(store, "INSERT INTO people VALUES (?, ?)", *row)


@pytest.mark.parametrize(
    "damage",
    [
        flip_bit,
        swap_rows,
        copy_from_other_store,
        lambda store: execute(store, "UPDATE people SET data = x'00'"),
        lambda store: execute(store, "UPDATE people SET data = 'text'"),
        lambda store: execute(store, "UPDATE people SET id = 'text' || hex(id)"),
    ],
)
def test_damaged_rows(store: Path, damage: Callable[[Path], object]):
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


def worker(store: Path, barrier, faces: list[np.ndarray], answers) -> None:
    barrier.wait()
    pseudonyms = open_store(store)
    answers.put([pseudonyms.person(face).id for face in faces])


def test_processes(store: Path):
    """Two processes create the store at once, and meet ten people in the same order and five more of their own."""
    people = strangers(20)
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    workers = []
    for k, order in enumerate((people[:15], [*people[:10], *people[15:]])):
        faces = [variant(vector, 50 * k + j) for j, vector in enumerate(order)]
        workers.append(context.Process(target=worker, args=(store, barrier, faces, answers)))
        workers[-1].start()
    first, second = (answers.get(timeout=60) for _ in workers)
    for process in workers:
        process.join(60)
        assert process.exitcode == 0
    assert first[:10] == second[:10]
    everybody = {*first, *second}
    assert len(everybody) == 20
    assert dict(open_store(store).people()) == {pseudonym: 1 + (pseudonym in first[:10]) for pseudonym in everybody}
    assert [path.name for path in store.parent.iterdir()] == [store.name]


# key rotation


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
    monkeypatch.setattr(StoreRows, "write", interrupt)
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
    deleted = {ids[3], ids[7]}
    before, size = records(store), store.stat().st_size
    assert all(part in store.read_bytes() for record in before.values() for part in record)
    assert pseudonyms.forget(ids[3], ids[7], ids[3]) == 2
    data = store.read_bytes()
    for pseudonym in ids:
        assert [part in data for part in before[pseudonym]] == 2 * [pseudonym not in deleted]
    assert not [row for row in (before[name][1] for name in deleted) if row[:16] in data or row[-16:] in data]
    assert [pseudonym for pseudonym, _ in pseudonyms.people()] == sorted(set(ids) - deleted)
    person = pseudonyms.person(people[3])
    assert person.new
    assert person.id not in ids
    assert pseudonyms.forget_all() == 39
    assert pseudonyms.people() == []
    assert (store.stat().st_size < size) == compacted
    assert not [pseudonym for pseudonym in ids if before[pseudonym][1][:16] in store.read_bytes()]
    assert [path.name for path in store.parent.iterdir()] == [store.name]


def test_every_write_takes_a_new_nonce(store: Path):
    nonces = set()
    for k in range(20):
        open_store(store).person(variant(FACE, k))
        ((_, data),) = records(store).values()
        nonces.add(data[:12])
    assert len(nonces) == 20
    assert not open_store(store).person(FACE).new
    assert not [part for part in (data[:16], data[-16:]) if part in store.read_bytes()]  # of the centre before


def test_forget_unknown_pseudonym(store: Path):
    pseudonyms = open_store(store)
    person = pseudonyms.person(FACE)
    before = store.read_bytes()
    with pytest.raises(DeidError, match="unknown pseudonym 0123: nobody was deleted"):
        pseudonyms.forget(person.id, "0123")
    assert store.read_bytes() == before
