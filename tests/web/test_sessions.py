"""Open tabs: photos in memory only, results of one tab for nobody else, nothing left when it is closed."""

from pathlib import Path

from deid_diffusion.web import sessions
from deid_diffusion.web.sessions import Session, Sessions


def files(folder: Path, *names: str) -> list[str]:
    paths = [folder / str(k) / name for k, name in enumerate(names)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name_bytes(path))
    return [str(path) for path in paths]


def name_bytes(path: Path) -> bytes:
    return path.name.encode() + path.parent.name.encode()


def test_photos_are_read_once_and_deleted(tmp_path):
    session = Session()
    first = files(tmp_path, "a.jpg", "b.png")
    session.take_in(first)
    assert session.photos == {"a.jpg": b"a.jpg0", "b.png": b"b.png1"}
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    more = tmp_path / "2" / "c.png"
    more.parent.mkdir()
    more.write_bytes(b"c")
    session.take_in([first[1], str(more)])  # one was taken away, one was added
    assert session.photos == {"b.png": b"b.png1", "c.png": b"c"}
    session.take_in([])
    assert session.photos == {}


def test_names_whose_results_would_be_the_same(tmp_path):
    session = Session()
    session.take_in(files(tmp_path, "a.jpg", "a.png", "a.jpg"))
    assert list(session.photos) == ["a.jpg", "a_2.png", "a_3.jpg"]
    assert session.photos["a_3.jpg"] == b"a.jpg2"


def test_a_tab_has_people_of_its_own_until_it_is_closed(tmp_path):
    tabs = Sessions()
    one, other = tabs.of("one"), tabs.of("other")
    people = one.people(tmp_path)
    assert one.people(tmp_path) is people
    assert other.people(tmp_path).key.fingerprint != people.key.fingerprint
    assert len(list(tmp_path.iterdir())) == 2
    tabs.forget("one")
    tabs.forget("one")
    tabs.forget("other")
    assert not list(tmp_path.iterdir())


def test_tokens(monkeypatch):
    tabs = Sessions()
    one = tabs.of("one")
    assert tabs.of("one") is one
    assert tabs.with_token(one.token) is one
    assert tabs.with_token(tabs.of("other").token) is not one
    assert tabs.with_token("one") is None
    tabs.forget("one")
    assert tabs.with_token(one.token) is None


def test_only_so_many_are_remembered(monkeypatch, tmp_path):
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    tabs = Sessions()
    first = tabs.of("a")
    first.people(tmp_path)
    for name in ("b", "a", "c"):
        tabs.of(name)
    assert tabs.with_token(first.token) is first  # b was unused for longest
    tabs.of("b")
    tabs.of("d")
    assert tabs.with_token(first.token) is None
    assert not list(tmp_path.iterdir())
