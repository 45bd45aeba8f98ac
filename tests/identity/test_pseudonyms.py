"""The file of pseudonyms: locks, permissions, and files that are refused and left as they are."""

from __future__ import annotations

import hashlib
import hmac
import multiprocessing
import os
import pickle
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.errors import DeidError
from deid_diffusion.identity import pseudonyms as store_module
from deid_diffusion.identity.keys import Key
from deid_diffusion.identity.pseudonyms import Pseudonyms, _rotation, default_store

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
    monkeypatch.setattr(store_module, "PATIENCE_S", 0.05)
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DeidError, match="another process keeps the store locked"):
            pseudonyms.person(FACE)
        assert pseudonyms.people() == [(person.id, 1)]
        with pytest.raises(DeidError, match=r"locked.*change is made.*VACUUM"):
            store_module.compact(store)
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


def strangers(number: int, seed: int = 0) -> np.ndarray:
    """(N, D) float32 of length 1, with cosines near 0."""
    vectors = np.random.default_rng(seed).normal(size=(number, D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def again(vector: np.ndarray, seed: int) -> np.ndarray:
    """Another photo of the same person: cosine 0.95."""
    noise = strangers(1, 1000 + seed)[0]
    noise -= (noise @ vector) * vector
    return (0.95 * vector + np.sqrt(1 - 0.95**2) * noise / np.linalg.norm(noise)).astype(np.float32)


def rows(store_file: Path) -> list[tuple[bytes, int, bytes]]:
    with closing(sqlite3.connect(store_file)) as connection:
        return connection.execute("SELECT cluster, faces, centre FROM people").fetchall()


@pytest.fixture
def store_file(tmp_path: Path) -> Path:
    return tmp_path / "a#b %20?.sqlite"  # characters that mean something in the address of a database


def test_one_person_one_pseudonym(store_file: Path):
    people = strangers(5)
    first = [opened(store_file).person(vector) for vector in people]
    assert all(person.new for person in first)
    assert len({person.id for person in first}) == 5
    assert all(len(person.id) == 16 and int(person.id, 16) >= 0 for person in first)
    for k, vector in enumerate(people):
        person = opened(store_file).person(again(vector, 100 + k))
        assert (person.id, person.new, person.seed(3)) == (first[k].id, False, first[k].seed(3))
    assert opened(store_file).people() == sorted((person.id, 2) for person in first)


def test_the_centre_is_the_mean_of_the_faces(store_file: Path):
    vector = strangers(1)[0]
    faces = [again(vector, k) for k in range(20)]
    pseudonyms = opened(store_file)
    assert [pseudonyms.person(face).new for face in faces] == [True] + 19 * [False]
    ((_, seen, blob),) = rows(store_file)
    with store_module.transaction(store_file, write=False) as (_, about):
        centre = np.frombuffer(blob, "<f4") @ _rotation(KEY, about.salt, D).T
    mean = np.mean(faces, 0) / np.linalg.norm(np.mean(faces, 0))
    assert seen == 20
    assert centre @ mean > 0.99  # the mean of renormalised means weighs the faces a little differently
    assert centre @ vector > 0.99


def test_the_threshold_decides(store_file: Path):
    a, b = strangers(1)[0], again(strangers(1)[0], 1)
    pseudonyms = opened(store_file, threshold=0.96)
    assert pseudonyms.person(a).new
    assert pseudonyms.person(b).new
    assert not opened(store_file, threshold=0.94).person(b).new


def test_seeds(store_file: Path):
    a, b = (opened(store_file).person(vector) for vector in strangers(2))
    seeds = [person.seed(attempt) for person in (a, b) for attempt in range(50)]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
    assert a.seed() == a.seed(0)
    parts = (b"deid-diffusion keys 1", b"seed", a._cluster, (7).to_bytes(8, "big"))
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    digest = hmac.new(KEY.secret, message, hashlib.sha256).digest()
    assert a.seed(7) == int.from_bytes(digest[:8], "big") // 2
    with pytest.raises(ValueError, match="attempt"):
        a.seed(-1)


def test_what_the_store_holds_means_nothing_without_the_key(tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    people = strangers(2)
    people[1] = again(people[0], 3)  # over no threshold here, so two people
    persons = [opened(one, threshold=0.99).person(vector) for vector in people]
    [opened(two, threshold=0.99).person(vector) for vector in people]
    data = one.read_bytes()
    for person, vector in zip(persons, people, strict=True):
        secrets = (person.id, str(person.seed()), person.id[:8])
        assert not [text for text in secrets if text.encode() in data or bytes.fromhex(text[:8]) in data]
        assert vector.tobytes() not in data
        assert vector.tobytes()[:8] not in data
    centres, others = (np.array([np.frombuffer(row[2], "<f4") for row in rows(path)]) for path in (one, two))
    assert abs(centres @ people.T).max() < 0.7
    assert abs(centres @ others.T).max() < 0.7  # nor can two stores of one key be compared
    assert centres[0] @ centres[1] == pytest.approx(people[0] @ people[1], abs=1e-5)
    assert repr(persons[0]) == f"Person(id='{persons[0].id}', new=True)"
    if os.name == "posix":
        assert stat.S_IMODE(one.stat().st_mode) == 0o600


def test_the_rotation_never_changes():
    expected = [
        (0.1926456970315, 0.9669955127765, -0.1667552508481),
        (0.7684407491810, -0.0429864031676, 0.6384755156941),
        (0.6102347502505, -0.2511410906500, -0.7513599018938),
    ]
    np.testing.assert_allclose(_rotation(KEY, b"salt", 3), expected, atol=1e-12)
    large = _rotation(KEY, b"salt", 100)
    np.testing.assert_allclose(large @ large.T, np.eye(100), atol=1e-12)
    assert abs(large.mean()) < 0.005
    assert abs(np.trace(large)) < 4  # 0, give or take 1, among all such matrices


def test_default_store_is_beside_the_key():
    assert default_store("keys/team.key") == Path("keys/team.key.people.sqlite")


def test_pickled_and_in_threads(store_file: Path):
    pseudonyms = pickle.loads(pickle.dumps(opened(store_file)))
    people = strangers(5)
    faces = [again(people[k % 5], k) for k in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(pseudonyms.person, faces))
    assert sum(person.new for person in found) == 5
    assert [count for _, count in pseudonyms.people()] == [8] * 5


def _worker(store_file: Path, barrier, faces: np.ndarray, answers) -> None:
    barrier.wait()
    pseudonyms = opened(store_file)
    answers.put([pseudonyms.person(face).id for face in faces])


def test_two_processes(store_file: Path):
    """Both create the store at once and see ten people in the same order, and five more of their own."""
    people = strangers(20)
    seen = [np.concatenate([people[:10], people[10:15]]), np.concatenate([people[:10], people[15:]])]
    faces = [np.array([again(vector, 50 * k + j) for j, vector in enumerate(one)]) for k, one in enumerate(seen)]
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_worker, args=(store_file, barrier, one, answers)) for one in faces]
    for worker in workers:
        worker.start()
    ids = [answers.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert ids[0][:10] == ids[1][:10]
    assert len({*ids[0], *ids[1]}) == 20
    assert dict(opened(store_file).people()) == {one: (2 if one in ids[0][:10] else 1) for one in {*ids[0], *ids[1]}}
    assert [path.name for path in store_file.parent.iterdir()] == [store_file.name]


@pytest.mark.parametrize("wishes", [{"dimension": 1}, {"dimension": 9999}, {"threshold": 1.1}, {"threshold": np.nan}])
def test_wishes_out_of_range(store_file: Path, wishes: dict[str, object]):
    with pytest.raises(ValueError, match="expected 2 to 2048"):
        opened(store_file, **wishes)
    assert not store_file.exists()


@pytest.mark.parametrize("wrong", [np.zeros(D), np.full(D, np.nan), 2 * strangers(1)[0], strangers(1), np.ones(3)])
def test_embeddings_that_are_none(store_file: Path, wrong: np.ndarray):
    with pytest.raises(ValueError, match="embedding: expected"):
        opened(store_file).person(wrong)
    assert opened(store_file).people() == []


def test_rotation_unlinks(store_file: Path):
    people = strangers(6)
    old = opened(store_file)
    before = [old.person(vector) for vector in people]
    old.person(people[0])
    stale, held = opened(store_file), rows(store_file)
    assert old.rotate(OTHER) == 6
    data = store_file.read_bytes()
    assert not [part for cluster, _, centre in held for part in (cluster, centre) if part in data]
    new = opened(store_file, OTHER)
    after = [new.person(vector) for vector in people]
    assert not any(person.new for person in after)
    assert not {person.id for person in before} & {person.id for person in after}
    assert not {person.seed() for person in before} & {person.seed() for person in after}
    assert sorted(count for _, count in new.people()) == [2, 2, 2, 2, 2, 3]
    assert old.person(people[0]).id == after[0].id  # the one that rotated goes on with the new key
    old_ids = {KEY.derive("person", row[0]).hex()[:16] for row in rows(store_file)}
    assert not old_ids & {person.id for person in before}  # not even with the old key
    with pytest.raises(DeidError, match="belongs to the key"):
        opened(store_file)
    with pytest.raises(DeidError, match="belongs to the key"):  # a process that was running meanwhile
        stale.person(people[0])


def test_many_rotations_keep_the_angles(store_file: Path):
    people = strangers(4)
    pseudonyms = opened(store_file, threshold=0.99999)
    for vector in people:
        pseudonyms.person(vector)
    for k in range(10):
        pseudonyms.rotate((OTHER, KEY)[k % 2])
    assert not any(pseudonyms.person(vector).new for vector in people)


def test_a_rotation_that_fails_changes_nothing(store_file: Path, monkeypatch: pytest.MonkeyPatch):
    pseudonyms = opened(store_file)
    person = pseudonyms.person(strangers(1)[0])
    before = store_file.read_bytes()
    with pytest.raises(DeidError, match="that very key already"):
        pseudonyms.rotate(Key(KEY.secret))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module, "insert", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pseudonyms.rotate(OTHER)
    assert store_file.read_bytes() == before
    assert pseudonyms.people() == [(person.id, 1)]


def test_forgetting_removes_the_bytes(store_file: Path):
    pseudonyms = opened(store_file)
    people = strangers(40)
    ids = [pseudonyms.person(vector).id for vector in people]
    blobs = {KEY.derive("person", cluster).hex()[:16]: (cluster, centre) for cluster, _, centre in rows(store_file)}
    assert all(part in store_file.read_bytes() for one in ids for part in blobs[one])
    size = store_file.stat().st_size
    assert pseudonyms.forget(ids[3], ids[7], ids[3]) == 2
    data = store_file.read_bytes()
    for one in ids:
        assert [part in data for part in blobs[one]] == 2 * [one not in (ids[3], ids[7])]
    assert not [part for k in (3, 7) for part in (blobs[ids[k]][1][:16], blobs[ids[k]][1][-16:]) if part in data]
    assert [one for one, _ in pseudonyms.people()] == sorted(set(ids) - {ids[3], ids[7]})
    again_seen = pseudonyms.person(people[3])
    assert again_seen.new
    assert again_seen.id not in ids
    assert pseudonyms.forget_all() == 39
    assert pseudonyms.people() == []
    assert store_file.stat().st_size < size
    assert not [one for one in ids if blobs[one][1][:16] in store_file.read_bytes()]
    assert [path.name for path in store_file.parent.iterdir()] == [store_file.name]


def test_forgotten_bytes_are_gone_even_if_the_file_is_not_rewritten(store_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "compact", lambda path: None)
    pseudonyms = opened(store_file)
    ids = [pseudonyms.person(vector).id for vector in strangers(3)]
    parts = {KEY.derive("person", cluster).hex()[:16]: (cluster, centre) for cluster, _, centre in rows(store_file)}
    pseudonyms.forget(ids[1])
    assert [[part in store_file.read_bytes() for part in parts[one]] for one in ids] == [
        [True] * 2,
        [False] * 2,
        [True] * 2,
    ]


def test_moved_centres_leave_no_trace_either(store_file: Path):
    pseudonyms = opened(store_file)
    pseudonyms.person(strangers(1)[0])
    ((_, _, blob),) = rows(store_file)
    pseudonyms.person(again(strangers(1)[0], 1))
    assert blob not in store_file.read_bytes()


def test_somebody_unknown_cannot_be_forgotten(store_file: Path):
    pseudonyms = opened(store_file)
    person = pseudonyms.person(strangers(1)[0])
    before = store_file.read_bytes()
    with pytest.raises(DeidError, match="nobody in it is called 0123: nobody was forgotten"):
        pseudonyms.forget(person.id, "0123")
    assert store_file.read_bytes() == before


def test_opening_needs_no_more_than_the_key(store_file: Path):
    person = opened(store_file, threshold=0.7).person(strangers(1)[0])
    pseudonyms = Pseudonyms.open(KEY, str(store_file))
    assert (pseudonyms.recogniser, pseudonyms.dimension, pseudonyms.threshold) == ("test", D, 0.7)
    assert pseudonyms.person(strangers(1)[0]).id == person.id
    with pytest.raises(DeidError, match="belongs to the key"):
        Pseudonyms.open(OTHER, store_file)
