"""The page: its controls, and what happens when they are used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..attributes.vocabulary import VOCABULARY
from ..errors import DeidError, one_line
from ..faces.methods import WARNINGS
from ..identity.pseudonyms import Pseudonyms
from ..images import READABLE
from ..service.desk import Desk
from . import choices, pictures
from .choices import Choices
from .sessions import MAX_PHOTOS, Session, Sessions
from .work import process
from .workplace import clear_old

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer

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
    desk: Desk
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
            return pictures.status([line], wrong=True), gr.update(interactive=True)
        lines = [f"{len(given)} photo{'' if len(given) == 1 else 's'} ready"] if given else []
        return pictures.status(lines), gr.update(interactive=bool(given))

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
            if method == "synth":
                self.anonymizer.check(options)
        except DeidError as error:
            yield (pictures.status([one_line(error)], wrong=True), *self.shown(session, None))
            return
        wrong: list[str] = []
        photos = list(session.photos.items())
        for k, (name, data) in enumerate(photos):
            first = next(iter(session.results), None)
            yield (pictures.status([f"{name}: {k + 1} of {len(photos)}", *wrong]), *self.shown(session, first))
            try:
                session.results[name] = process(self.anonymizer, self.desk, name, data, options, file_format)
            except DeidError as error:
                wrong.append(one_line(error))
        lines = [_summary(session), *wrong] if session.results else wrong or ["choose a photo first"]
        first = next(iter(session.results), None)
        yield (pictures.status(lines, wrong=bool(wrong) or not photos), *self.shown(session, first))

    def show(self, name: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Another one of the results."""
        return self.shown(self.session(request), name)[1:]

    def shown(self, session: Session, name: str | None) -> tuple[Any, ...]:
        """The choice of results, the slider, maps and masks, the record and the links, for one result or none."""
        names = list(session.results)
        chooser = gr.update(choices=names, value=name, visible=len(names) > 1)
        result = session.results.get(name) if name is not None else None
        if name is None or result is None:
            return chooser, pictures.EMPTY, "", None, ""
        outputs = [one.name for one in session.results.values()]
        return (
            chooser,
            pictures.compare(result.before, result.after),
            pictures.picture(
                result.overlay, "semantic maps, which the new faces follow, and masks, of the original faces"
            ),
            json.loads(result.record),
            pictures.links(session.token, outputs, names.index(name)),
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
                method = gr.Radio(list(choices.METHODS), value="synth", label="Each face becomes", elem_id="method")
                caution = gr.HTML(visible=False)
                with gr.Group() as of_faces:
                    keep = gr.CheckboxGroup(
                        list(VOCABULARY), value=list(VOCABULARY), label="The new face keeps", elem_id="keep"
                    )
                    words = gr.Textbox(label="and, in your own words", placeholder="freckles, dimples", elem_id="words")
                new_faces = gr.Radio(
                    list(choices.NEW_FACES),
                    value=choices.FRESH,
                    label="New faces are",
                    info=_FACES_INFO,
                    elem_id="faces",
                )
                seed = gr.Number(1, label="Seed", precision=0, minimum=0, visible=False, elem_id="seed")
                with gr.Accordion("More", open=False):
                    attempts = gr.Slider(1, 10, 6, step=1, label="Candidates a face at most")
                    file_format = gr.Dropdown(list(choices.FORMATS), value="png", label="Format of results")
                go = gr.Button("Replace faces", variant="primary", interactive=False, elem_id="go")
                status = gr.HTML(pictures.status([]), elem_id="status")
            with gr.Column(scale=3, min_width=300):
                chooser = gr.Dropdown([], label="Photo", visible=False, interactive=True, elem_id="chooser")
                with gr.Tabs():
                    with gr.Tab("Compare"):
                        compared = gr.HTML(pictures.EMPTY, elem_id="compared")
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
        new_faces.change(lambda one: gr.update(visible=one == choices.SEED), new_faces, seed, **private)
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
    new = method == "synth"
    warning = WARNINGS.get(method, "")
    return (
        gr.update(visible=new),
        gr.update(visible=new),
        gr.update(visible=new and new_faces == choices.SEED),
        gr.update(value=pictures.status([warning], wrong=True) if warning else "", visible=bool(warning)),
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
