"""The page: its controls, and what happens when they are used."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from PIL import Image

from ..attributes.selection import parse_keep
from ..attributes.vocabulary import VOCABULARY
from ..errors import DeidError, UsageError, one_line
from ..evaluation.inspection import MAX_SIDE, draw_maps, draw_masks
from ..faces.compositing import WARNINGS, Method
from ..identity.pseudonyms import Pseudonyms
from ..io import images
from ..io.images import READABLE
from ..options import Options
from .gradio_sessions import MAX_PHOTOS, Result, Session, Sessions, clear_old
from .http import anonymize_request
from .queue import Check, RequestQueue, deadline_check

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer
    from ..faces.analysis import FaceAnalysis


METHODS: tuple[tuple[str, Method], ...] = (
    ("a new face", "generate"),
    ("one colour", "fill"),
    ("blur (can be undone)", "blur"),
    ("pixels (can be undone)", "pixelate"),
)
"""What the page calls each method."""

FRESH, SEED, PERSON = "fresh", "seed", "person"
NEW_FACES: tuple[tuple[str, str], ...] = (
    ("another each time", FRESH),
    ("repeatable, by a seed", SEED),
    ("one for each person, by a key", PERSON),
)
"""What the page calls the sources of new faces."""

FORMATS: tuple[tuple[str, str], ...] = (
    ("PNG (lossless)", "png"),
    ("WebP (lossless)", "webp"),
    ("JPEG (smaller)", "jpeg"),
)
"""What the page calls the formats of results."""

_MAX_LETTERS = 500


@dataclass(frozen=True)
class Choices:
    """The controls of the page.

    Attributes:
        keep: names of `VOCABULARY` that are ticked.
        words: further phrases, with commas between them.
        method: one of `METHODS`.
        new_faces: one of `NEW_FACES`.
        seed: a whole number, 0 or more; None or anything else only where no seed is asked for.
        attempts: candidates a face at most.
        file_format: one of `FORMATS`.
    """

    keep: list[str]
    words: str
    method: Method
    new_faces: str
    seed: float | None
    attempts: float
    file_format: str

    @property
    def by_person(self) -> bool:
        """Whether each person gets one new face."""
        return self.method == "generate" and self.new_faces == PERSON

    def options(self, people: Pseudonyms | None) -> Options:
        """The options. Raises UsageError for a choice that cannot be carried out."""
        if self.method != "generate":
            return Options(method=self.method)
        if len(self.words) > _MAX_LETTERS:
            raise UsageError(f"own words: {len(self.words)} letters, expected {_MAX_LETTERS} at most")
        own = parse_keep([self.words]) or () if self.words.strip(" ,") else ()
        all_ticked = set(self.keep) == set(VOCABULARY) and not own
        return Options(
            keep=None if all_ticked else (*self.keep, *own),
            seed=_whole(self.seed) if self.new_faces == SEED else None,
            num_candidates=int(self.attempts),
            pseudonyms=people,
        )


def _whole(seed: float | None) -> int:
    if seed is None or seed < 0 or seed != int(seed) or seed >= 2**53:
        raise UsageError(f"seed: {'nothing' if seed is None else f'{seed:g}'} given, expected a whole number from 0 on")
    return int(seed)


EMPTY = '<p class="deid-empty">Results appear here.</p>'
"""Before the first result."""


def data_uri(pixels: np.ndarray) -> str:
    """(H, W, 3) uint8 RGB as a JPEG of at most `MAX_SIDE` pixels a side, in the address itself."""
    image = Image.fromarray(pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def overlay(pixels: np.ndarray, faces: Sequence[FaceAnalysis]) -> str:
    """The photo's semantic maps beside its masks, as one data URI, one below the other where the photo is wide."""
    panels = [draw_maps(pixels, faces), draw_masks(pixels, faces)]
    wide = pixels.shape[1] > pixels.shape[0]
    return data_uri(np.vstack(panels) if wide else np.hstack(panels))


def compare(before: str, after: str) -> str:
    """Original and result in one place; a range input says how much of each is seen. The arrow keys move it."""
    return (
        '<div class="deid-compare" style="--at: 50%">'
        f'<img src="{after}" alt="result"><img class="before" src="{before}" alt="original">'
        '<span class="line"></span><span class="tag left">original</span><span class="tag right">result</span>'
        '<input type="range" min="0" max="100" value="50" aria-label="share of the original that is shown, in percent" '
        "oninput=\"this.parentNode.style.setProperty('--at', this.value + '%')\"></div>"
    )


def picture(address: str, words: str) -> str:
    """A picture and what it shows."""
    return f'<figure class="deid-figure"><img src="{address}" alt=""><figcaption>{words}</figcaption></figure>'


def status_html(lines: Sequence[str], *, wrong: bool = False) -> str:
    """Lines that a screen reader says as they come."""
    shown = "".join(f"<div>{html.escape(line)}</div>" for line in lines)
    return f'<div class="deid-status{" wrong" if wrong else ""}" role="{"alert" if wrong else "status"}">{shown}</div>'


def links(token: str, names: Sequence[str], number: int) -> str:
    """Downloads of one result and its record, and of all results where there are several."""
    name, place = html.escape(names[number]), f"result/{token}"
    items = [
        (f"{place}/{number}/picture", f"Download {name}"),
        (f"{place}/{number}/record", "Download its record"),
    ]
    if len(names) > 1:
        items.append((f"{place}/all.zip", f"Download all {len(names)}"))
    return '<div class="deid-links">' + "".join(f'<a href="{a}" download>{b}</a>' for a, b in items) + "</div>"


logger = logging.getLogger(__name__)


def process(
    anonymizer: Anonymizer, desk: RequestQueue, name: str, data: bytes, options: Options, file_format: str
) -> Result:
    """Wait for the photo's turn, and de-identify it.

    Raises:
        DeidError: it is no photo, too large, or it took too long; or something inside failed, of which the log says
            more. One line.
    """
    limits = desk.limits

    def work(check: Check) -> Result:
        encoded, record = anonymize_request(
            anonymizer, data, name, options, file_format=file_format, max_pixels=limits.max_pixels, check=check
        )
        before = images.decode(data, name, max_pixels=limits.max_pixels).pixels
        return Result(
            name=record.output or name,
            data=encoded,
            record=record.to_json(),
            before=data_uri(before),
            after=data_uri(images.decode(encoded, name).pixels),
            overlay=overlay(before, anonymizer.analyse(before)),
        )

    try:
        with desk.place():
            waiting = desk.submit(work)
            try:
                return waiting.result(limits.seconds)
            except FutureTimeout:
                waiting.cancel()
                raise deadline_check(limits) from None
    except DeidError:
        raise
    except Exception as error:  # its text may hold paths of this machine, so only the log gets it
        logger.error("internal error: %s: %s", type(error).__name__, one_line(error))
        raise DeidError(f"{name}: internal error: {type(error).__name__}: the log of the server says more") from error


CSS = Path(__file__).with_name("page.css")
_HEAD = """<header class="deid-head"><h1>deid-diffusion</h1>
<p>Every face becomes another person's. A face that cannot be replaced is covered. Photos stay on the computer that runs
this page, in memory, until you close the tab.</p></header>"""
_FACES_INFO = "By a seed or key, faces can be linked: results stay personal data."


@dataclass(frozen=True, eq=False)
class Page:
    """What the handlers share.

    Attributes:
        anonymizer: with its model loaded.
        desk: through which all photos go.
        sessions: the open tabs.
        people: of the server's key; None gives each tab a key of its own.
        folder: for uploads on their way, and stores of tabs.
    """

    anonymizer: Anonymizer
    desk: RequestQueue
    sessions: Sessions
    people: Pseudonyms | None
    folder: Path

    def take_in(self, paths: list[str] | None, request: gr.Request) -> tuple[str, Any]:
        """New photos, or fewer."""
        session = self.session(request)
        clear_old(self.folder)
        given = paths or []
        session.take_in(given[:MAX_PHOTOS])
        for path in given[MAX_PHOTOS:]:
            Path(path).unlink(missing_ok=True)
        if len(given) > MAX_PHOTOS:
            line = f"{len(given)} photos given, the first {MAX_PHOTOS} were taken: use the command line for more"
            return status_html([line], wrong=True), gr.update(interactive=True)
        lines = [f"{len(given)} photo{'' if len(given) == 1 else 's'} ready"] if given else []
        return status_html(lines), gr.update(interactive=bool(given))

    def run(
        self,
        keep: list[str],
        words: str,
        method: Any,
        new_faces: str,
        seed: float | None,
        attempts: float,
        file_format: str,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """De-identify the tab's photos one by one; each is shown as it is done."""
        session = self.session(request)
        session.results = {}
        chosen = Choices(keep, words, method, new_faces, seed, attempts, file_format)
        try:
            people = (self.people or session.people(self.folder)) if chosen.by_person else None
            options = chosen.options(people)
            if method == "generate":
                self.anonymizer.check(options)
        except DeidError as error:
            yield (status_html([one_line(error)], wrong=True), *self.shown(session, None))
            return
        wrong: list[str] = []
        photos = list(session.photos.items())
        for k, (name, data) in enumerate(photos):
            first = next(iter(session.results), None)
            yield (status_html([f"{name}: {k + 1} of {len(photos)}", *wrong]), *self.shown(session, first))
            try:
                session.results[name] = process(self.anonymizer, self.desk, name, data, options, file_format)
            except DeidError as error:
                wrong.append(one_line(error))
        lines = [_summary(session), *wrong] if session.results else wrong or ["choose a photo first"]
        first = next(iter(session.results), None)
        yield (status_html(lines, wrong=bool(wrong) or not photos), *self.shown(session, first))

    def show(self, name: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Another one of the results."""
        return self.shown(self.session(request), name)[1:]

    def shown(self, session: Session, name: str | None) -> tuple[Any, ...]:
        """The choice of results, the slider, maps and masks, the record and the links, for one result or none."""
        names = list(session.results)
        chooser = gr.update(choices=names, value=name, visible=len(names) > 1)
        result = session.results.get(name) if name is not None else None
        if name is None or result is None:
            return chooser, EMPTY, "", None, ""
        outputs = [one.name for one in session.results.values()]
        return (
            chooser,
            compare(result.before, result.after),
            picture(result.overlay, "semantic maps, which the new faces follow, and masks, of the original faces"),
            json.loads(result.record),
            links(session.token, outputs, names.index(name)),
        )

    def leave(self, request: gr.Request) -> None:
        """The tab was closed: forget it."""
        self.sessions.forget(str(request.session_hash))
        clear_old(self.folder)

    def session(self, request: gr.Request) -> Session:
        return self.sessions.of(str(request.session_hash))


def make_page(page: Page) -> gr.Blocks:
    """The controls, wired to the handlers."""
    limits = page.desk.limits
    with gr.Blocks(title="deid-diffusion", analytics_enabled=False, fill_width=True, delete_cache=(600, 600)) as blocks:
        gr.HTML(_HEAD)
        with gr.Row(elem_classes="deid-columns"):
            with gr.Column(scale=2, min_width=300):
                files = gr.File(
                    label=f"Photos (up to {MAX_PHOTOS}, {limits.max_bytes // 1_000_000} MB each)",
                    file_count="multiple",
                    file_types=sorted(READABLE),
                    elem_id="photos",
                    height=160,
                )
                method = gr.Radio(list(METHODS), value="generate", label="Each face becomes", elem_id="method")
                caution = gr.HTML(visible=False)
                with gr.Group() as of_faces:
                    keep = gr.CheckboxGroup(
                        list(VOCABULARY), value=list(VOCABULARY), label="The new face keeps", elem_id="keep"
                    )
                    words = gr.Textbox(label="and, in your own words", placeholder="freckles, dimples", elem_id="words")
                new_faces = gr.Radio(
                    list(NEW_FACES),
                    value=FRESH,
                    label="New faces are",
                    info=_FACES_INFO,
                    elem_id="faces",
                )
                seed = gr.Number(1, label="Seed", precision=0, minimum=0, visible=False, elem_id="seed")
                with gr.Accordion("More", open=False):
                    attempts = gr.Slider(1, 10, 6, step=1, label="Candidates a face at most")
                    file_format = gr.Dropdown(list(FORMATS), value="png", label="Format of results")
                go = gr.Button("Replace faces", variant="primary", interactive=False, elem_id="go")
                status = gr.HTML(status_html([]), elem_id="status")
            with gr.Column(scale=3, min_width=300):
                chooser = gr.Dropdown([], label="Photo", visible=False, interactive=True, elem_id="chooser")
                with gr.Tabs():
                    with gr.Tab("Compare"):
                        compared = gr.HTML(EMPTY, elem_id="compared")
                    with gr.Tab("Map and mask"):
                        overlay = gr.HTML(elem_id="overlay")
                    with gr.Tab("Record"):
                        record = gr.JSON(show_label=False, elem_id="record")
                links = gr.HTML(elem_id="links")
        private: dict[str, Any] = {"api_visibility": "private"}
        one_result = [compared, overlay, record, links]
        files.change(page.take_in, files, [status, go], show_progress="hidden", **private)
        method.change(
            _fit, [method, new_faces], [of_faces, new_faces, seed, caution], show_progress="hidden", **private
        )
        new_faces.change(lambda one: gr.update(visible=one == SEED), new_faces, seed, **private)
        controls = [keep, words, method, new_faces, seed, attempts, file_format]
        go.click(
            page.run,
            controls,
            [status, chooser, *one_result],
            concurrency_limit=limits.queue,
            show_progress_on=[status],
            **private,
        )
        chooser.input(page.show, chooser, one_result, show_progress="hidden", **private)
        blocks.unload(page.leave)
    return blocks.queue(max_size=4 * limits.queue, api_open=False)


def _fit(method: str, new_faces: str) -> tuple[Any, ...]:
    """Only new faces keep anything and come from anywhere; blur and pixels say what they are worth."""
    new = method == "generate"
    warning = WARNINGS.get(method, "")
    return (
        gr.update(visible=new),
        gr.update(visible=new),
        gr.update(visible=new and new_faces == SEED),
        gr.update(value=status_html([warning], wrong=True) if warning else "", visible=bool(warning)),
    )


def _summary(session: Session) -> str:
    """As "2 photos: 3 faces replaced, 1 covered"."""
    counts: dict[str, int] = {}
    for result in session.results.values():
        for face in json.loads(result.record)["faces"]:
            counts[face["action"]] = counts.get(face["action"], 0) + 1
    number = len(session.results)
    faces = ", ".join(f"{count} {'face' if count == 1 else 'faces'} {action}" for action, count in counts.items())
    return f"{number} photo{'' if number == 1 else 's'}: {faces or 'no face found, nothing changed'}"
