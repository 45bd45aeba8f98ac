"""`deid-diffusion keys ...`: exit codes, one-line messages, no traceback."""

import os
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.identity import keys
from deid_diffusion.identity.keys import read_key
from deid_diffusion.identity.pseudonyms import Pseudonyms
from tests.failures import raising

STORE = "a.key.people.sqlite"


pytestmark = pytest.mark.usefixtures("workdir")


@pytest.fixture
def ids(call) -> list[str]:
    """Three people in a store beside a key, the first seen twice."""
    assert call("keys", "new", "a.key")[0] == 0
    pseudonyms = Pseudonyms(read_key("a.key"), STORE, recogniser="test", dimension=3, threshold=0.9)
    pseudonyms.person(np.eye(3)[0])
    return [pseudonyms.person(vector).id for vector in np.eye(3)]


def test_new(call):
    code, out, err = call("keys", "new", "a.key")
    key = read_key("a.key")
    assert (code, err) == (0, [])
    assert out == [f"a.key: new key {key.fingerprint}; it links people to pseudonyms: keep it secret"]
    assert key.secret.hex()[:8] not in out[0]
    code, out, err = call("keys", "new", "a.key")
    assert (code, out) == (2, [])
    assert err == ["error: a.key: exists already, and a key is never overwritten: choose another name"]
    assert read_key("a.key") == key


def test_list(call, ids):
    lines = sorted([f"{ids[0]} 2", f"{ids[1]} 1", f"{ids[2]} 1"])
    assert call("keys", "list", STORE, "--key-file", "a.key") == (0, lines, [])


def test_rotate(call, ids):
    call("keys", "new", "b.key")
    new = read_key("b.key").fingerprint
    assert call("keys", "rotate", "a.key", "b.key") == (
        0,
        [
            f"{STORE}: 3 people with new pseudonyms; its key is now b.key ({new})",
            "rename it to b.key.people.sqlite, or pass it as --store with b.key",
        ],
        [],
    )
    code, out, err = call("keys", "list", STORE, "--key-file", "a.key")
    assert (code, out, len(err)) == (2, [], 1)
    assert f"belongs to the key {new}" in err[0]
    listed = call("keys", "list", STORE, "--key-file", "b.key")[1]
    assert sorted(line.split()[1] for line in listed) == ["1", "1", "2"]
    assert not {line.split()[0] for line in listed} & set(ids)
    assert len(call("keys", "rotate", "b.key", "a.key", "--store", STORE)[1]) == 1


def test_forget(call, ids):
    options = (STORE, "--key-file", "a.key")
    assert call("keys", "forget", *options, "0123", ids[0]) == (
        2,
        [],
        [f"error: {STORE}: unknown pseudonym 0123: nobody was deleted"],
    )
    assert call("keys", "forget", *options, ids[0]) == (0, [f"{STORE}: 1 person forgotten, 2 left"], [])
    assert call("keys", "list", *options)[1] == sorted(f"{person} 1" for person in ids[1:])
    assert call("keys", "forget", *options, "--all") == (0, [f"{STORE}: 2 people forgotten, 0 left"], [])
    assert call("keys", "list", *options) == (0, [], [])


@pytest.mark.parametrize("wrong", [[], ["--all", "0123"]])
def test_forget_needs_ids_or_all(call, ids, wrong):
    code, out, err = call("keys", "forget", STORE, "--key-file", "a.key", *wrong)
    assert (code, out) == (2, [])
    assert err == ["error: nobody to forget: give either pseudonyms or --all"]
    assert len(call("keys", "list", STORE, "--key-file", "a.key")[1]) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing command"),
        (["new"], "KEYFILE"),
        (["new", "none/a.key"], "folder does not exist"),
        (["list", STORE], "--key-file"),
        (["list", STORE, "--key-file", "none"], "none: no such key file"),
        (["list", "none", "--key-file", "a.key"], "none: no such store"),
        (["list", "a.key", "--key-file", "a.key"], "a.key: is not a store of people"),
        (["rotate", "a.key", "none"], "none: no such key file"),
        (["rotate", "a.key", "a.key"], "already belongs to this key"),
    ],
)
def test_bad_arguments(call, ids, arguments, words):
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    code, out, err = call("keys", *arguments)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ")
    assert words in err[0]
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_key_readable_by_others(call, ids):
    Path("a.key").chmod(0o644)
    assert call("keys", "list", STORE, "--key-file", "a.key") == (
        2,
        [],
        ["error: a.key: is open to other users (mode 644), but it is a secret: run chmod 600 a.key"],
    )


def test_internal_error(call, monkeypatch):
    monkeypatch.setattr(keys, "new_key", raising(RuntimeError("two\nlines")))
    code, out, err = call("keys", "new", "a.key")
    assert (code, out, len(err)) == (1, [], 1)
    assert err[0].startswith("internal error: RuntimeError: two lines (please report")
