import io
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.errors import DeidError
from deid_diffusion.evaluation.evaluate import Evaluation
from deid_diffusion.evaluation.onnx import Reading
from deid_diffusion.evaluation.pairing import Labels
from deid_diffusion.evaluation.report import render, tables
from tests.evaluation.chromium import NAMES, browser, open_page
from tests.evaluation.measurements import errors, evaluation, face, photo, unit_vectors

HOSTILE = ("<script>alert(1)</script>", 'p"><img src=x onerror=y>', "$\\frac{", "\x01\x1b[31m", "{{ 7 * 7 }}", "_漢字")
needs_browser = pytest.mark.skipif(browser() is None, reason=f"no browser: install one of {', '.join(NAMES)}")


def evaluate(names=("",), groups=("young", "old"), **options) -> Evaluation:
    """Evaluate 40 people with two photos each, in equal groups; one face is unchanged."""
    vectors = unit_vectors(40, 3, 16)
    photos = []
    for k in range(80):
        readings = Reading(20.0 + k / 2, 0.9), Reading(22.0 + k / 2, 0.2 + 0.01 * k)
        embeddings = vectors[k // 2, 0], vectors[k // 2, 1 + k % 2]
        measurement = face(*embeddings, mesh=errors(yaw=k / 4), readings=readings, unchanged=k == 7)
        photos.append(photo(f"p{names[k % len(names)]}{k // 2}_{k % 2}", f"p{k // 2}", measurement))
    rows = {p.pair.name: {"age": groups[k * len(groups) // 80]} for k, p in enumerate(photos)}
    return evaluation(photos, labels=Labels(("age",), rows), **options)


@pytest.fixture(scope="module")
def example() -> Evaluation:
    return evaluate(without_original=["more"], notes=["a note & more"])


@pytest.fixture(scope="module")
def page(example) -> str:
    return render(example, "results against originals")


class Document(HTMLParser):
    """Open tags, all tags, attributes, addresses, text, and names of charts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.addresses, self.text = [], [], ""
        self.tags, self.attributes, self.charts = set(), set(), set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.addresses += [value for name, value in attributes if re.search(r"src|href|^data$|action", name)]
        self.charts |= {value for name, value in attributes if name == "aria-label"}
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        self.text += data


def assert_safe(page: str) -> Document:
    document = Document(page)
    assert document.open == []
    assert "script" not in document.tags
    assert not any(name.startswith("on") for name in document.attributes)
    assert all(re.match(r"#|data:image/jpeg", address) for address in document.addresses)
    assert not re.search(r"url\((?!#)|@import", page)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    return document


def test_page_has_every_figure(example, page):
    document = assert_safe(page)
    figures = [figure for section in example.sections for figure in section.figures]
    texts = [section.title for section in example.sections] + [figure.column for figure in figures]
    texts += [figure.name for figure in (*figures, *example.headline)]
    for text in (*texts, *example.notes, "too few pairs", "planted", "young (40)", "false match rate"):
        assert text in document.text
    assert document.charts >= {"Receiver operating characteristic", "re-identified", "attributes kept", "sex agrees"}
    assert document.charts >= {f"{name} of results against originals" for name in ("age", "yaw", "pitch")}
    assert render(example, "results against originals") == page  # deterministic


def test_page_escapes_hostile_names():
    roles = {f"role {k}": text for k, text in enumerate(HOSTILE)}
    hostile = evaluate(names=HOSTILE, groups=HOSTILE, notes=HOSTILE, roles=roles)
    document = assert_safe(render(hostile, " ".join(HOSTILE)))
    for text in HOSTILE:
        assert text in document.text or not text.isprintable()


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_missing_package_is_named(example, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DeidError, match=r"the report needs a package .* pip install 'deid-diffusion\[report\]'"):
        render(example, "x")


def test_originals_on_demand(example, page):
    assert example.worst[0].reason == "unchanged"
    assert "Worst cases" in page
    without = render(replace(example, worst=()), "x")
    assert "Worst cases" not in without
    assert "img" not in Document(without).tags


def test_terminal_tables(example):
    from rich.console import Console

    console = Console(width=160, file=io.StringIO(), highlight=False)
    for table in tables(example):
        console.print(table)
    text = console.file.getvalue()
    assert text.index("Coverage") < text.index("Re-identification by planted") < text.index("Attributes")
    for words in ("share of unchanged faces", "too few pairs", "landmark error", "young", "chance"):
        assert words in text


@needs_browser
def test_page_in_browser(page, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page)
    opened = open_page(path, tmp_path)
    assert (opened.console, opened.requests) == ([], [])
    picture = np.asarray(Image.open(opened.picture).convert("RGB"))
    assert picture.shape == (4200, 1180, 3)
    assert len(np.unique(picture[::9, ::9].reshape(-1, 3), axis=0)) > 50
    assert (picture[:400] < 100).any()  # text of the header


@needs_browser
def test_errors_and_requests_in_browser(tmp_path):
    path = tmp_path / "bad.html"
    path.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("broken")</script>')
    opened = open_page(path, tmp_path, height=200)
    assert opened.requests == ["http://127.0.0.1:9/x.png"]
    (message,) = opened.console
    assert "broken" in message
