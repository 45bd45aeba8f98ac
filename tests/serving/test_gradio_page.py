"""From the page's controls to options."""

from __future__ import annotations

import base64
import io
import shutil
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, TimeoutError, expect, sync_playwright

from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.errors import UsageError
from deid_diffusion.faces.compositing import METHODS
from deid_diffusion.io import images
from deid_diffusion.options import Options
from deid_diffusion.results import ImageRecord
from deid_diffusion.serving import gradio_page
from deid_diffusion.serving.access import ApiKey
from deid_diffusion.serving.gradio_app import make_app
from deid_diffusion.serving.gradio_page import Choices
from deid_diffusion.serving.gradio_sessions import upload_dir
from deid_diffusion.serving.http import SUFFIXES
from deid_diffusion.serving.queue import Limits
from tests.fake_anonymizer import FakeAnonymizer, analysis, expected
from tests.serving.servers import ask, encoded, serving

PLAIN = Choices(list(VOCABULARY), "", "generate", gradio_page.FRESH, 1, 6, "png")


def test_the_page_as_it_opens_is_the_default():
    assert PLAIN.options(None) == Options()


def test_choices():
    assert replace(PLAIN, keep=["age"], words=" freckles , dimples").options(None).keep == (
        "age",
        "freckles",
        "dimples",
    )
    assert replace(PLAIN, words="freckles").options(None).keep == (*VOCABULARY, "freckles")
    assert replace(PLAIN, keep=[], words=" , ").options(None).keep == ()
    assert replace(PLAIN, new_faces=gradio_page.SEED, seed=24.0, attempts=5).options(None) == Options(
        seed=24, num_candidates=5
    )
    assert replace(PLAIN, method="blur", words="freckles", seed=None).options(None) == Options(method="blur")


def test_who_gets_a_person():
    person = replace(PLAIN, new_faces=gradio_page.PERSON)
    assert person.by_person
    assert not replace(person, method="fill").by_person
    assert not PLAIN.by_person


@pytest.mark.parametrize("seed", [None, -1, 1.5, 1e300])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(UsageError, match="expected a whole number"):
        replace(PLAIN, new_faces=gradio_page.SEED, seed=seed).options(None)


@pytest.mark.parametrize("words", ["expresion", "none, age", "x" * 501, "12"])
def test_words_that_are_none(words):
    with pytest.raises(UsageError):
        replace(PLAIN, words=words).options(None)


def test_all_methods_and_formats_are_on_the_page():
    assert {method for _, method in gradio_page.METHODS} == set(METHODS)
    assert {one for _, one in gradio_page.FORMATS} == set(SUFFIXES)


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))


def test_small_copies():
    assert opened(gradio_page.data_uri(np.zeros((30, 40, 3), np.uint8))).size == (40, 30)
    assert opened(gradio_page.data_uri(np.zeros((100, 3200, 3), np.uint8))).size == (1600, 50)


def test_maps_and_masks():
    for shape, size in (((60, 80), (80, 120)), ((80, 60), (120, 80))):
        photo = np.full((*shape, 3), 90, np.uint8)
        assert opened(gradio_page.overlay(photo, [analysis(photo)])).size == size


def test_names_are_no_markup():
    bad = '<img src=x onerror="alert(1)">.png'
    for made in (gradio_page.status([bad]), gradio_page.links("token", [bad, "b.png"], 0)):
        assert "<img" not in made
        assert "&lt;img" in made
    assert "all.zip" in gradio_page.links("token", [bad, "b.png"], 0)
    assert "all.zip" not in gradio_page.links("token", ["b.png"], 0)


pytest.importorskip("gradio", reason="the page needs deid-diffusion[web]")
pytest.importorskip("playwright", reason="driving a browser needs playwright: pip install playwright")


NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: install one of {', '.join(NAMES)}")

LIMITS = Limits(max_bytes=1_000_000, max_pixels=1_000_000)
KEY = "an-api-key-of-the-test"
PATIENCE = 60_000  # milliseconds, for machines that do something else besides
PHOTO = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def fake() -> FakeAnonymizer:
    return FakeAnonymizer()


@pytest.fixture(scope="module")
def served(fake, tmp_path_factory):
    """Port and folder of a page."""
    tmp_path_factory.getbasetemp()  # or the tests' own files would lie in that folder
    with upload_dir() as folder, serving(make_app(fake, LIMITS, folder)) as port:
        yield port, folder


@pytest.fixture
def wrong() -> list[str]:
    """What a page has to complain of, and requests to other servers."""
    return []


@pytest.fixture
def page(browser: Browser, served, wrong):
    """An open tab that asks nobody else for anything and has nothing to complain of."""
    context = browser.new_context(viewport={"width": 1180, "height": 900}, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    tab = context.new_page()
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    address = f"http://127.0.0.1:{served[0]}/"
    tab.on("request", lambda one: None if one.url.startswith((address, "data:", "blob:")) else wrong.append(one.url))
    tab.goto(address)
    tab.wait_for_selector("#go")
    yield tab
    context.close()
    assert not wrong


def photo(folder: Path, name: str, pixels: np.ndarray = PHOTO) -> Path:
    path = folder / name
    path.write_bytes(encoded(pixels))
    return path


def upload(page: Page, *paths: Path) -> None:
    page.set_input_files("#photos input[type=file]", list(paths))
    expect(page.locator("#go")).to_be_enabled(timeout=PATIENCE)


def run(page: Page, words: str) -> None:
    page.locator(".deid-status").first.evaluate("one => one.replaceChildren()")  # what an earlier run said
    page.click("#go")
    expect(page.locator("#status")).to_contain_text(words, timeout=PATIENCE)


def download(page: Page, words: str, folder: Path) -> Path:
    with page.expect_download() as caught:
        page.get_by_role("link", name=words).click()
    path = folder / caught.value.suggested_filename
    caught.value.save_as(path)
    return path


def left_in(folder: Path) -> list[Path]:
    """Files in the folder of uploads, but for empty ones."""
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


def test_upload_run_slider_download(page, served, tmp_path):
    upload(page, photo(tmp_path, "one.png"), photo(tmp_path, "two.png", PHOTO[::-1]))
    expect(page.locator("#status")).to_contain_text("2 photos ready")
    assert not left_in(served[1])  # they are in memory by now
    run(page, "2 photos: 2 faces replaced")
    slider = page.get_by_role("slider", name="share of the original")
    place = slider.bounding_box()
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.mouse.down()
    page.mouse.move(place["x"] + place["width"] * 0.1, place["y"] + place["height"] / 2)
    page.mouse.up()
    assert int(slider.input_value()) < 20
    shown = page.locator(".deid-compare").evaluate("one => getComputedStyle(one).getPropertyValue('--at')")
    assert shown.strip() == f"{slider.input_value()}%"
    page.get_by_role("tab", name="Map and mask").click()
    expect(page.locator("#overlay img")).to_be_visible()
    page.get_by_role("tab", name="Record").click()
    expect(page.locator("#record")).to_contain_text("fake gate")
    np.testing.assert_array_equal(images.read(download(page, "Download one.png", tmp_path)).pixels, expected(PHOTO))
    record = ImageRecord.from_json(download(page, "Download its record", tmp_path).read_text())
    assert (record.input, record.output) == ("one.png", "one.png")
    with zipfile.ZipFile(download(page, "Download all 2", tmp_path)) as archive:
        assert archive.namelist() == ["one.png", "two.png", "records.jsonl"]
    page.get_by_label("Photo", exact=True).click()
    page.get_by_role("option", name="two.png").click()
    expect(page.get_by_role("link", name="Download two.png")).to_be_visible()
    assert not left_in(served[1])


def test_choices_reach_the_anonymizer(page, fake, tmp_path):
    upload(page, photo(tmp_path, "one.png"))
    page.get_by_label("glasses", exact=True).uncheck()
    page.get_by_label("and, in your own words").fill("freckles")
    page.get_by_label("repeatable, by a seed").check()
    page.get_by_label("Seed", exact=True).fill("24")
    run(page, "1 photo: 1 face replaced")
    options = fake.calls[-1]["options"]
    assert options.seed == 24
    assert "glasses" not in options.keep
    assert options.keep[-1] == "freckles"
    page.get_by_label("and, in your own words").fill("expresion")
    run(page, "did you mean expression?")
    page.get_by_label("blur (can be undone)").check()
    expect(page.get_by_text("blur can be undone in effect")).to_be_visible()
    expect(page.get_by_label("Seed", exact=True)).to_be_hidden()
    run(page, "1 photo: 1 face replaced")
    assert fake.calls[-1]["options"].method == "blur"
    page.get_by_label("a new face").check()
    page.get_by_label("and, in your own words").fill("")
    page.get_by_label("one for each person, by a key").check()
    run(page, "1 photo: 1 face replaced")
    assert fake.calls[-1]["options"].pseudonyms is not None


def press_until(page: Page, key: str, selector: str) -> None:
    """Press a key until an element, or one in it, has the focus."""
    for _ in range(60):
        page.keyboard.press(key)
        if page.evaluate("one => document.activeElement?.matches(one)", selector):
            return
    raise AssertionError(f"{key} does not reach {selector}")


def open_chooser(page: Page):
    """What Space on the drop area opens; again, where the page had the focus before it had its scripts."""
    for left in reversed(range(8)):
        try:
            with page.expect_file_chooser(timeout=4000) as chooser:
                page.keyboard.press("Space")
            return chooser.value
        except TimeoutError:
            if not left:
                raise


def test_keyboard_alone(page, tmp_path):
    press_until(page, "Tab", "#photos button, #photos [role=button], #photos input")
    open_chooser(page).set_files(photo(tmp_path, "one.png"))
    expect(page.locator("#go")).to_be_enabled(timeout=PATIENCE)
    press_until(page, "Tab", "#keep input")
    page.keyboard.press("Space")
    press_until(page, "Tab", "#go")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("1 photo: 1 face replaced", timeout=PATIENCE)
    press_until(page, "Tab", ".deid-compare input")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.locator(".deid-compare input").input_value() == "53"
    assert page.locator(".deid-compare").evaluate("one => one.style.getPropertyValue('--at')") == "53%"
    press_until(page, "Tab", ".deid-links a")
    with page.expect_download() as caught:
        page.keyboard.press("Enter")
    assert caught.value.suggested_filename == "one.png"


@pytest.mark.parametrize("side", [240, 2000])
def test_a_narrow_window(page, tmp_path, side):
    page.set_viewport_size({"width": 380, "height": 800})
    upload(
        page,
        photo(
            tmp_path, "a-name-that-is-much-longer-than-such-a-window-is-wide.png", np.zeros((200, side, 3), np.uint8)
        ),
    )
    run(page, "1 photo: 1 face replaced")
    expect(page.locator(".deid-compare")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    for selector in ("#go", "#keep", ".deid-compare", ".deid-links a >> nth=0"):
        place = page.locator(selector).bounding_box()
        assert place["x"] >= 0
        assert place["x"] + place["width"] <= 380


def test_uploads_that_are_no_photos(page, served, tmp_path):
    (tmp_path / "text.png").write_text("this is a text")
    Image.new("1", (3000, 3000)).save(tmp_path / "bomb.png")
    upload(page, tmp_path / "text.png", tmp_path / "bomb.png", photo(tmp_path, "good.png"))
    run(page, "1 photo: 1 face replaced")
    status = page.locator("#status")
    expect(status).to_contain_text("text.png: is not a photo, or its header is damaged")
    expect(status).to_contain_text("bomb.png: 3000 x 3000 pixels are over the limit of 1000000")
    expect(page.get_by_role("link", name="Download good.png")).to_be_visible()


def test_200_megabytes(page, wrong, tmp_path):
    with (tmp_path / "large.png").open("wb") as stream:
        stream.truncate(200_000_000)
    page.set_input_files("#photos input[type=file]", tmp_path / "large.png")
    expect(page.get_by_text("exceeds", exact=False).or_(page.get_by_text("maximum", exact=False)).first).to_be_visible()
    upload(page, photo(tmp_path, "good.png"))
    run(page, "1 photo: 1 face replaced")
    wrong.clear()  # Gradio may have asked for the progress of the upload that it refused


def test_a_closed_tab_is_forgotten(browser, served, tmp_path):
    port, folder = served
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    tab = context.new_page()
    tab.goto(f"http://127.0.0.1:{port}/")
    upload(tab, photo(tmp_path, "one.png"))
    tab.get_by_label("one for each person, by a key").check()
    run(tab, "1 photo: 1 face replaced")
    address = "/" + tab.get_by_role("link", name="Download one.png").get_attribute("href")
    assert ask(port, "GET", address).status == 200
    assert left_in(folder)  # the tab's people
    token = address.split("/")[2]
    assert ask(port, "GET", address.replace(token, token[::-1])).status == 404
    context.close()
    end = time.monotonic() + PATIENCE / 1000
    while ask(port, "GET", address).status != 404 or left_in(folder):
        assert time.monotonic() < end, "the tab is still known"
        time.sleep(0.1)


def test_the_password(browser, fake):
    with upload_dir() as folder, serving(make_app(fake, LIMITS, folder, api_key=ApiKey(KEY))) as port:
        for password, status in ((KEY, 200), ("wrong", 401)):
            context = browser.new_context(http_credentials={"username": "", "password": password})
            tab = context.new_page()
            assert tab.goto(f"http://127.0.0.1:{port}/").status == status
            if status == 200:
                tab.wait_for_selector("#go", timeout=PATIENCE)
            context.close()
