"""Sessions, controls and markup of the web page."""

from __future__ import annotations

import base64
import gc
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.errors import UsageError
from deid_diffusion.faces.compositing import METHODS
from deid_diffusion.options import Options
from deid_diffusion.serving.http import SUFFIXES
from tests.fake_anonymizer import analysis
from tests.lazy import LazyModule

gradio_page = LazyModule("deid_diffusion.serving.gradio_page")


@pytest.fixture
def defaults():
    """The page's controls before anything is chosen."""
    return gradio_page.Choices(list(VOCABULARY), "", "generate", gradio_page.FRESH, 1, 6, "png")


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({"keep": ["age"], "phrases": " freckles , dimples"}, {"keep": ("age", "freckles", "dimples")}),
        ({"phrases": "freckles"}, {"keep": (*VOCABULARY, "freckles")}),
        ({"keep": [], "phrases": " , "}, {"keep": ()}),
        ({"new_faces": "SEED", "seed": 24.0, "num_candidates": 5}, {"seed": 24, "num_candidates": 5}),
        ({"method": "blur", "phrases": "freckles", "seed": None}, {"method": "blur"}),
    ],
)
def test_options(defaults, changes, options):
    if "new_faces" in changes:
        changes = {**changes, "new_faces": getattr(gradio_page, changes["new_faces"])}
    assert replace(defaults, **changes).options(None) == Options(**options)


def test_by_person(defaults):
    by_person = replace(defaults, new_faces=gradio_page.PERSON)
    assert by_person.by_person
    assert not replace(by_person, method="fill").by_person
    assert not defaults.by_person


@pytest.mark.parametrize("seed", [None, -1, 1.5, 1e300])
def test_invalid_seed(defaults, seed):
    with pytest.raises(UsageError, match="seed: expected an integer"):
        replace(defaults, new_faces=gradio_page.SEED, seed=seed).options(None)


@pytest.mark.parametrize("phrases", ["expresion", "none, age", "x" * 501, "12"])
def test_invalid_phrases(defaults, phrases):
    with pytest.raises(UsageError):
        replace(defaults, phrases=phrases).options(None)


def test_labels_are_complete():
    assert {method for _, method in gradio_page.METHODS} == set(METHODS)
    assert {file_format for _, file_format in gradio_page.FORMATS} == set(SUFFIXES)


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))


@pytest.mark.parametrize(("shape", "size"), [((30, 40), (40, 30)), ((100, 3200), (1600, 50))])
def test_preview_size(shape, size):
    assert decoded(gradio_page.data_uri(np.zeros((*shape, 3), np.uint8))).size == size


@pytest.mark.parametrize(("shape", "size"), [((60, 80), (80, 120)), ((80, 60), (120, 80))])
def test_overlay_size(shape, size):
    photo = np.full((*shape, 3), 90, np.uint8)
    assert decoded(gradio_page.overlay(photo, [analysis(photo)])).size == size


def test_file_names_are_escaped():
    name = '<img src=x onerror="alert(1)">.png'
    for markup in (gradio_page.status_html([name]), gradio_page.links_html("token", [name, "b.png"], 0)):
        assert "<img" not in markup
        assert "&lt;img" in markup


def test_zip_link_needs_several_results():
    assert "all.zip" in gradio_page.links_html("token", ["a.png", "b.png"], 0)
    assert "all.zip" not in gradio_page.links_html("token", ["b.png"], 0)


def write_files(folder: Path, *names: str) -> list[str]:
    """Write a file per name, each in a folder of its own; its content is its name and number."""
    paths = [folder / str(number) / name for number, name in enumerate(names)]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{path.name}{number}")
    return [str(path) for path in paths]


def test_uploads_are_read_once_and_deleted(tmp_path):
    session = gradio_page.Session()
    paths = write_files(tmp_path, "a.jpg", "b.png", "c.png")
    session.set_photos(paths[:2])
    assert session.photos == {"a.jpg": b"a.jpg0", "b.png": b"b.png1"}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["c.png"]
    session.set_photos(paths[1:])
    assert session.photos == {"b.png": b"b.png1", "c.png": b"c.png2"}
    session.set_photos([])
    assert session.photos == {}


def test_equal_stems_are_numbered(tmp_path):
    session = gradio_page.Session()
    session.set_photos(write_files(tmp_path, "a.jpg", "a.png", "a.jpg"))
    assert list(session.photos) == ["a.jpg", "a_2.png", "a_3.jpg"]
    assert session.photos["a_3.jpg"] == b"a.jpg2"


def test_sessions_have_own_pseudonyms(tmp_path):
    sessions = gradio_page.Session(), gradio_page.Session()
    pseudonyms = [session.pseudonyms(tmp_path) for session in sessions]
    assert sessions[0].pseudonyms(tmp_path) is pseudonyms[0]
    assert pseudonyms[0].key.fingerprint != pseudonyms[1].key.fingerprint
    assert len(list(tmp_path.iterdir())) == 2
    for session in (*sessions, sessions[0]):
        session.close()
    assert not list(tmp_path.iterdir())


def test_token_ends_with_session():
    session, other = gradio_page.Session(), gradio_page.Session()
    assert gradio_page.Session.find(session.token) is session
    assert gradio_page.Session.find(other.token) is other
    assert gradio_page.Session.find("token") is None
    session.close()
    assert gradio_page.Session.find(session.token) is None


def test_dropped_session_leaves_nothing(tmp_path):
    session = gradio_page.Session()
    session.pseudonyms(tmp_path)
    token = session.token
    del session
    gc.collect()
    assert gradio_page.Session.find(token) is None
    assert not list(tmp_path.iterdir())
