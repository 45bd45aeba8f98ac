"""The page: all figures in it, nothing fetched, originals only on demand; seen by a real browser where there is one."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.evaluation import evaluate
from deid_diffusion.evaluation.evaluate import Evaluation
from deid_diffusion.evaluation.onnx import Reading
from deid_diffusion.evaluation.pairing import Labels, Matching
from deid_diffusion.evaluation.report import render, tables
from tests.evaluation.chromium import NAMES, browser, open_page
from tests.evaluation.looks import errors, face, judges, photo

needs_browser = pytest.mark.skipif(browser() is None, reason=f"no browser: install one of {', '.join(NAMES)}")


class Named:
    name, threshold = "planted", 0.9


@pytest.fixture(scope="module")
def found() -> Evaluation:
    """40 people, two photos each, two age groups, one face left as it was."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(40, 3, 16))
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    looks = []
    for k in range(80):
        readings = Reading(20.0 + k / 2, 0.9), Reading(22.0 + k / 2, 0.2 + 0.01 * k)
        one = face(rows[k // 2, 0], rows[k // 2, 1 + k % 2], mesh=errors(yaw=k / 4), readings=readings, left=k == 7)
        looks.append(photo(f"p<{k // 2}>_{k % 2}", f"p{k // 2}", one))
    matching = Matching(tuple(one.pair for one in looks), (), ("more",), True)
    labels = Labels(("age",), {one.pair.name: {"age": "young" if k < 40 else "old"} for k, one in enumerate(looks)})
    jury = replace(judges(Named()), reader=Named())
    identity = evaluate.reidentify(looks, 0, Named())
    return evaluate._sum_up(looks, [identity], jury, matching, {"recogniser": "planted"}, labels, {}, ["a note & more"])


class Tags(HTMLParser):
    """Collects every tag that was opened and not closed, and every address."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.addresses = [], []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href", "data", "srcset", "action")]
        if tag not in ("meta", "img", "br", "path", "line", "rect", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_every_figure_is_on_the_page(found):
    page = render(found, "results <&> originals")
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(address.startswith("data:image/jpeg") for address in tags.addresses)
    assert not re.search(r"https?://|url\(|@import|<script", page)
    assert "results &lt;&amp;&gt; originals" in page
    for words in ("a note &amp; more", "1 faces are left as they were", "1 result without original, left out: more"):
        assert words in page
    for section in found.sections:
        assert section.title in page
    for title in ("Privacy against utility", "Recognition by planted", "Age", "Yaw", "Pitch", "By age"):
        assert f">{title}<" in page
    for one in ("naive", "parrot", "linkability", "rank-5", "TPR at FMR 1e-4", "too few pairs", "landmark error"):
        assert one in page
    assert page.count("<svg") > 8


def test_originals_are_shown_on_demand_only(found):
    assert found.worst[0].why == "left as it was"
    assert "Worst cases" in render(found, "x")
    assert "p&lt;3&gt;_1" in render(found, "x")
    without = replace(found, worst=())
    assert "Worst cases" not in render(without, "x")
    assert "<img" not in render(without, "x")


def test_the_terminal_shows_the_same(found):
    from rich.console import Console

    console = Console(width=160, file=io.StringIO(), highlight=False)
    for table in tables(found):
        console.print(table)
    text = console.file.getvalue()
    assert text.index("Coverage") < text.index("Re-identification by planted") < text.index("Attributes")
    for words in ("share of faces left", "too few pairs", "landmark error", "young", "chance"):
        assert words in text


@needs_browser
def test_a_browser_shows_it_without_errors_or_requests(found, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(render(found, "results against originals"))
    opened = open_page(path, tmp_path)
    assert opened.console == []
    assert opened.requests == []
    picture = np.asarray(Image.open(opened.picture).convert("RGB"))
    assert picture.shape == (4200, 1180, 3)
    assert len(np.unique(picture[::9, ::9].reshape(-1, 3), axis=0)) > 50
    assert (picture[:400] < 100).any()  # the head's letters


@needs_browser
def test_the_browser_would_have_told(tmp_path):
    path = tmp_path / "bad.html"
    path.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("broken")</script>')
    opened = open_page(path, tmp_path, height=200)
    assert opened.requests == ["http://127.0.0.1:9/x.png"]
    assert len(opened.console) == 1
    assert "broken" in opened.console[0]
