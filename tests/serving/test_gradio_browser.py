"""The web page in a browser: mouse, keyboard, and a narrow window."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, FileChooser, Page, TimeoutError, expect, sync_playwright

from deid_diffusion.faces.compositing import WARNINGS
from deid_diffusion.io import images
from deid_diffusion.results import ImageRecord
from deid_diffusion.serving.server import Limits
from tests.fake_anonymizer import FakeAnonymizer, expected
from tests.lazy import LazyModule
from tests.serving.servers import encoded, serving, stored_files

gradio_app = LazyModule("deid_diffusion.serving.gradio_app")

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: install one of {', '.join(NAMES)}")

LIMITS = Limits(max_bytes=1_000_000, max_pixels=1_000_000)
TIMEOUT = 60_000  # milliseconds, for busy machines
PHOTO = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def fake() -> FakeAnonymizer:
    return FakeAnonymizer()


@pytest.fixture(scope="module")
def server(fake, tmp_path_factory):
    """Port and upload folder of a page."""
    tmp_path_factory.getbasetemp()  # before `tempfile` points to the upload folder
    with gradio_app.upload_dir() as folder, serving(gradio_app.make_app(fake, LIMITS, folder)) as port:
        yield port, folder


@pytest.fixture
def problems() -> list[str]:
    """Errors of a tab, and its requests to other servers."""
    return []


@pytest.fixture
def page(browser: Browser, server, problems):
    """An open tab that must not have problems."""
    context = browser.new_context(viewport={"width": 1180, "height": 900}, accept_downloads=True)
    context.set_default_timeout(TIMEOUT)
    tab = context.new_page()
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    origin = f"http://127.0.0.1:{server[0]}/"
    own = (origin, "data:", "blob:")
    tab.on("request", lambda request: None if request.url.startswith(own) else problems.append(request.url))
    tab.goto(origin)
    tab.wait_for_selector("#go")
    yield tab
    context.close()
    assert not problems


@pytest.fixture
def photo(tmp_path) -> Path:
    return write_photo(tmp_path, "one.png")


def write_photo(folder: Path, name: str, pixels: np.ndarray = PHOTO) -> Path:
    path = folder / name
    path.write_bytes(encoded(pixels))
    return path


def upload(page: Page, *paths: Path) -> None:
    page.set_input_files("#photos input[type=file]", list(paths))
    expect(page.locator("#go")).to_be_enabled(timeout=TIMEOUT)


def run(page: Page, status: str = "1 photo: 1 face replaced") -> None:
    page.locator("#status .deid-status").evaluate("element => element.replaceChildren()")  # of an earlier run
    page.click("#go")
    expect(page.locator("#status")).to_contain_text(status, timeout=TIMEOUT)


def download(page: Page, link: str, folder: Path) -> Path:
    with page.expect_download() as event:
        page.get_by_role("link", name=link).click()
    path = folder / event.value.suggested_filename
    event.value.save_as(path)
    return path


def test_slider_and_downloads(page, server, photo, tmp_path):
    upload(page, photo, write_photo(tmp_path, "two.png", PHOTO[::-1]))
    expect(page.locator("#status")).to_contain_text("2 photos ready")
    assert not stored_files(server[1])  # read into memory
    run(page, "2 photos: 2 faces replaced")
    slider = page.get_by_role("slider", name="share of the original")
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] / 2)
    page.mouse.up()
    assert int(slider.input_value()) < 20
    position = page.locator(".deid-compare").evaluate("element => getComputedStyle(element).getPropertyValue('--at')")
    assert position.strip() == f"{slider.input_value()}%"
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
    assert not stored_files(server[1])


def test_controls(page, fake, photo):
    upload(page, photo)
    page.get_by_label("glasses", exact=True).uncheck()
    phrases = page.get_by_label("in your own words")
    phrases.fill("freckles")
    page.get_by_label("repeatable, by a seed").check()
    page.get_by_label("Seed", exact=True).fill("24")
    run(page)
    options = fake.calls[-1]["options"]
    assert options.seed == 24
    assert "glasses" not in options.keep
    assert options.keep[-1] == "freckles"
    phrases.fill("expresion")
    run(page, "did you mean expression?")
    page.get_by_label("blur (reversible)").check()
    expect(page.get_by_text(WARNINGS["blur"])).to_be_visible()
    expect(page.get_by_label("Seed", exact=True)).to_be_hidden()
    run(page)
    assert fake.calls[-1]["options"].method == "blur"
    page.get_by_label("a new face").check()
    phrases.fill("")
    page.get_by_label("the same for each person").check()
    run(page)
    assert fake.calls[-1]["options"].pseudonyms is not None


def press_until(page: Page, key: str, selector: str) -> None:
    """Press a key until an element has the focus."""
    for _ in range(60):
        page.keyboard.press(key)
        if page.evaluate("selector => document.activeElement?.matches(selector)", selector):
            return
    raise AssertionError(f"{key} does not reach {selector}")


def open_file_chooser(page: Page) -> FileChooser:
    """Press Space on the focused drop area; repeat until the page's scripts are ready."""
    for attempts in reversed(range(8)):
        try:
            with page.expect_file_chooser(timeout=4000) as chooser:
                page.keyboard.press("Space")
            return chooser.value
        except TimeoutError:
            if not attempts:
                raise


def test_keyboard(page, photo):
    press_until(page, "Tab", "#photos button, #photos [role=button], #photos input")
    open_file_chooser(page).set_files(photo)
    expect(page.locator("#go")).to_be_enabled(timeout=TIMEOUT)
    press_until(page, "Tab", "#keep input")
    page.keyboard.press("Space")
    press_until(page, "Tab", "#go")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("1 photo: 1 face replaced", timeout=TIMEOUT)
    press_until(page, "Tab", ".deid-compare input")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.locator(".deid-compare input").input_value() == "53"
    assert page.locator(".deid-compare").evaluate("element => element.style.getPropertyValue('--at')") == "53%"
    press_until(page, "Tab", ".deid-links a")
    with page.expect_download() as event:
        page.keyboard.press("Enter")
    assert event.value.suggested_filename == "one.png"


@pytest.mark.parametrize("width", [240, 2000])
def test_narrow_window(page, tmp_path, width):
    page.set_viewport_size({"width": 380, "height": 800})
    upload(page, write_photo(tmp_path, f"{'long-' * 12}name.png", np.zeros((200, width, 3), np.uint8)))
    run(page)
    expect(page.locator(".deid-compare")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    for selector in ("#go", "#keep", ".deid-compare", ".deid-links a >> nth=0"):
        box = page.locator(selector).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 380


def test_oversized_upload(page, problems, photo, tmp_path):
    with (tmp_path / "large.png").open("wb") as stream:
        stream.truncate(200_000_000)
    page.set_input_files("#photos input[type=file]", tmp_path / "large.png")
    expect(page.get_by_text("exceeds", exact=False).or_(page.get_by_text("maximum", exact=False)).first).to_be_visible()
    upload(page, photo)
    run(page)
    problems.clear()  # Gradio may have asked for the progress of the refused upload
