"""Web page: the session of a tab, the controls, and their event handlers."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import secrets
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
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
from ..identity.keys import KEY_BYTES, Key
from ..identity.pseudonyms import Pseudonyms
from ..identity.recognition import SAME_PSEUDONYM, DlibRecogniser
from ..io import images
from ..io.images import READABLE
from ..options import Options
from .http import anonymize_request
from .server import Check, RequestQueue, deadline_error

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer
    from ..faces.analysis import FaceAnalysis


MAX_PHOTOS = 20
"""Photos per session."""

MAX_SESSIONS = 32
"""Sessions kept at once; beyond that, the least recently used session is dropped."""

FRESH, SEED, PERSON = "fresh", "seed", "person"

# labels and values of the controls
METHODS: tuple[tuple[str, Method], ...] = (
    ("a new face", "generate"),
    ("one colour", "fill"),
    ("blur (reversible)", "blur"),
    ("pixelation (reversible)", "pixelate"),
)
NEW_FACES = (("random", FRESH), ("repeatable, by a seed", SEED), ("the same for each person, by a key", PERSON))
FORMATS = (("PNG (lossless)", "png"), ("WebP (lossless)", "webp"), ("JPEG (smaller)", "jpeg"))

_MAX_PHRASE_LETTERS = 500


@dataclass(frozen=True, eq=False)
class Result:
    """A finished photo: file name, encoded file, `ImageRecord` as a line of JSON, and previews as data URIs."""

    name: str
    data: bytes
    record: str
    before: str
    after: str
    overlay: str


@dataclass(eq=False)
class Session:
    """Photos and results of one browser tab, held in memory.

    Attributes:
        token: unguessable part of the tab's download addresses.
        photos: file name -> encoded photo, in upload order.
        results: file name of the photo -> result.
    """

    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    photos: dict[str, bytes] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)
    _pseudonyms: Pseudonyms | None = None

    def __post_init__(self) -> None:
        _SESSIONS[self.token] = self

    @staticmethod
    def find(token: str) -> Session | None:
        """Return the open session with a token."""
        return _SESSIONS.get(token)

    def set_photos(self, paths: Sequence[str]) -> None:
        """Replace the photos by uploaded files. Each file is read once and deleted immediately."""
        photos: dict[str, bytes] = {}
        names = {path: self._names[path] for path in paths if path in self._names}
        for path in paths:
            if path in names:
                photos[names[path]] = self.photos[names[path]]
                continue
            file = Path(path)
            names[path] = name = _unique_name(file.name, {*names.values(), *photos})
            try:
                photos[name] = file.read_bytes()
            finally:
                file.unlink(missing_ok=True)
        self.photos, self._names = photos, names

    def pseudonyms(self, folder: Path) -> Pseudonyms:
        """Return the session's pseudonyms: their key is random, and their store is deleted with the session."""
        if self._pseudonyms is None:
            store = folder / f"{secrets.token_hex(16)}.sqlite"
            weakref.finalize(self, _delete_store, store)
            self._pseudonyms = Pseudonyms(
                Key(secrets.token_bytes(KEY_BYTES)),
                store,
                recogniser=DlibRecogniser.name,
                dimension=DlibRecogniser.dimension,
                threshold=SAME_PSEUDONYM,
            )
        return self._pseudonyms

    def close(self) -> None:
        """Forget everything; downloads end."""
        _SESSIONS.pop(self.token, None)
        self.photos, self.results = {}, {}
        if self._pseudonyms is not None:
            _delete_store(self._pseudonyms.store)


_SESSIONS: weakref.WeakValueDictionary[str, Session] = weakref.WeakValueDictionary()


def _delete_store(store: Path) -> None:
    for path in store.parent.glob(f"{store.name}*"):  # SQLite's journal too
        path.unlink(missing_ok=True)


def _unique_name(name: str, taken: set[str]) -> str:
    """Return the name, numbered if its stem is taken: results of `a.jpg` and `a.webp` would both be `a.png`."""
    path, number = Path(name), 1
    stems = {Path(other).stem for other in taken}
    stem = path.stem
    while stem in stems:
        number += 1
        stem = f"{path.stem}_{number}"
    return f"{stem}{path.suffix}"


@dataclass(frozen=True)
class Choices:
    """Values of the controls, in their order.

    `keep` has names of `VOCABULARY`, `phrases` further attributes, separated by commas; `seed` is used with `SEED`.
    """

    keep: list[str]
    phrases: str
    method: Method
    new_faces: str
    seed: float | None
    num_candidates: float
    file_format: str

    @property
    def by_person(self) -> bool:
        """Return whether each person gets one pseudonym."""
        return self.method == "generate" and self.new_faces == PERSON

    def options(self, pseudonyms: Pseudonyms | None) -> Options:
        """Return the options. Raises UsageError for an invalid choice."""
        if self.method != "generate":
            return Options(method=self.method)
        if len(self.phrases) > _MAX_PHRASE_LETTERS:
            raise UsageError(f"phrases: {len(self.phrases)} characters, at most {_MAX_PHRASE_LETTERS} are allowed")
        phrases = parse_keep([self.phrases]) or () if self.phrases.strip(" ,") else ()
        keeps_all = set(self.keep) == set(VOCABULARY) and not phrases
        return Options(
            keep=None if keeps_all else (*self.keep, *phrases),
            seed=_integer(self.seed) if self.new_faces == SEED else None,
            num_candidates=int(self.num_candidates),
            pseudonyms=pseudonyms,
        )


def _integer(seed: float | None) -> int:
    if seed is None or seed < 0 or seed != int(seed) or seed >= 2**53:
        raise UsageError(f"seed: expected an integer, 0 or more, got {'nothing' if seed is None else f'{seed:g}'}")
    return int(seed)


def data_uri(pixels: np.ndarray) -> str:
    """Encode (H, W, 3) uint8 RGB as the data URI of a JPEG of at most `MAX_SIDE` pixels per side."""
    image = Image.fromarray(pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def overlay(pixels: np.ndarray, faces: Sequence[FaceAnalysis]) -> str:
    """Return the data URI of the semantic maps and the masks: side by side, or stacked for a landscape photo."""
    panels = [draw_maps(pixels, faces), draw_masks(pixels, faces)]
    landscape = pixels.shape[1] > pixels.shape[0]
    return data_uri(np.vstack(panels) if landscape else np.hstack(panels))


def compare_html(before: str, after: str) -> str:
    """Return a before/after slider over a range input, so that the arrow keys move it.

    `gr.ImageSlider` handles only mouse and touch events, and would need the original as a file with an address.
    """
    return (
        '<div class="deid-compare" style="--at: 50%">'
        f'<img src="{after}" alt="result"><img class="before" src="{before}" alt="original">'
        '<span class="line"></span><span class="tag left">original</span><span class="tag right">result</span>'
        '<input type="range" min="0" max="100" value="50" aria-label="visible share of the original, in percent" '
        "oninput=\"this.parentNode.style.setProperty('--at', this.value + '%')\"></div>"
    )


def status_html(lines: Sequence[str], *, error: bool = False) -> str:
    """Return lines that screen readers announce."""
    body = "".join(f"<div>{html.escape(line)}</div>" for line in lines)
    return f'<div class="deid-status{" error" if error else ""}" role="{"alert" if error else "status"}">{body}</div>'


def links_html(token: str, names: Sequence[str], index: int) -> str:
    """Return download links for one result and its record and, with several results, for all of them."""
    links = [
        (f"{index}/picture", f"Download {html.escape(names[index])}"),
        (f"{index}/record", "Download its record"),
    ]
    if len(names) > 1:
        links.append(("all.zip", f"Download all {len(names)}"))
    items = (f'<a href="result/{token}/{path}" download>{label}</a>' for path, label in links)
    return f'<div class="deid-links">{"".join(items)}</div>'


logger = logging.getLogger(__name__)


def process(
    anonymizer: Anonymizer, queue: RequestQueue, name: str, data: bytes, options: Options, file_format: str
) -> Result:
    """Wait for the photo's turn, and de-identify it. Raises DeidError for every failure; the log has its details."""
    limits = queue.limits

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
        with queue.place():
            waiting = queue.submit(work)
            try:
                return waiting.result(limits.seconds)
            except FutureTimeout:
                waiting.cancel()
                raise deadline_error(limits) from None
    except DeidError:
        raise
    except Exception as error:  # its text may hold paths of this machine, so only the log gets it
        logger.error("internal error: %s: %s", type(error).__name__, one_line(error))
        raise DeidError(f"{name}: internal error: {type(error).__name__}: the log of the server says more") from error


_HEAD = """<header class="deid-head"><h1>deid-diffusion</h1>
<p>Replaces every face by another person's, and covers the faces that cannot be replaced. Photos stay in the memory of
the computer that runs this page until you close the tab.</p></header>"""
_EMPTY = '<p class="deid-empty">Results appear here.</p>'
_CAPTION = "Semantic maps, which guide the new faces, and masks of the original faces"
_OVERLAY = f'<figure class="deid-figure"><img src="{{}}" alt=""><figcaption>{_CAPTION}</figcaption></figure>'


@dataclass(frozen=True, eq=False)
class Page:
    """Event handlers, and the objects that they share; see `gradio_app.make_app`."""

    anonymizer: Anonymizer
    queue: RequestQueue
    pseudonyms: Pseudonyms | None
    folder: Path

    def upload(self, paths: list[str] | None, session: Session | None) -> tuple[str, Any, Session]:
        """Read the uploaded photos into the session."""
        session = session or Session()
        paths = paths or []
        session.set_photos(paths[:MAX_PHOTOS])
        for path in paths[MAX_PHOTOS:]:
            Path(path).unlink(missing_ok=True)
        button = gr.update(interactive=bool(paths))
        if len(paths) > MAX_PHOTOS:
            line = f"{len(paths)} photos: only the first {MAX_PHOTOS} were taken; use the command line for more"
            return status_html([line], error=True), button, session
        return status_html([f"{_count(len(paths), 'photo')} ready"] if paths else []), button, session

    def run(self, session: Session | None, *controls: Any) -> Iterator[tuple[Any, ...]]:
        """Process the photos one by one, and show progress and the first result."""
        session = session or Session()
        session.results = {}
        choices = Choices(*controls)
        errors: list[str] = []
        try:
            pseudonyms = (self.pseudonyms or session.pseudonyms(self.folder)) if choices.by_person else None
            options = choices.options(pseudonyms)
            if choices.method == "generate":
                self.anonymizer.check(options)
        except DeidError as error:
            yield (status_html([one_line(error)], error=True), *self.show_first(session))
            return
        photos = list(session.photos.items())
        for number, (name, data) in enumerate(photos, 1):
            yield (status_html([f"{name}: {number} of {len(photos)}", *errors]), *self.show_first(session))
            try:
                session.results[name] = process(self.anonymizer, self.queue, name, data, options, choices.file_format)
            except DeidError as error:
                errors.append(one_line(error))
        lines = [_summary(session), *errors] if session.results else errors or ["choose a photo first"]
        yield (status_html(lines, error=bool(errors) or not photos), *self.show_first(session))

    def show(self, session: Session | None, name: str | None) -> tuple[Any, ...]:
        """Return the slider, the maps and masks, the record and the download links of a result."""
        results = {} if session is None else session.results
        if session is None or name not in results:
            return _EMPTY, "", None, ""
        result = results[name]
        names = [other.name for other in results.values()]
        return (
            compare_html(result.before, result.after),
            _OVERLAY.format(result.overlay),
            json.loads(result.record),
            links_html(session.token, names, list(results).index(name)),
        )

    def show_first(self, session: Session) -> tuple[Any, ...]:
        """Return the choice of results, then `show` for the first one."""
        names = list(session.results)
        first = names[0] if names else None
        return gr.update(choices=names, value=first, visible=len(names) > 1), *self.show(session, first)


def make_page(page: Page) -> gr.Blocks:
    """Lay out the controls and connect the handlers."""
    limits = page.queue.limits
    with gr.Blocks(title="deid-diffusion", analytics_enabled=False, fill_width=True) as blocks:
        session = gr.State(delete_callback=_close)
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
                method = gr.Radio(list(METHODS), value="generate", label="Replace each face by", elem_id="method")
                caution = gr.HTML(visible=False)
                with gr.Group() as attributes:
                    keep = gr.CheckboxGroup(
                        list(VOCABULARY), value=list(VOCABULARY), label="Attributes to keep", elem_id="keep"
                    )
                    phrases = gr.Textbox(
                        label="More attributes, in your own words", placeholder="freckles, dimples", elem_id="phrases"
                    )
                new_faces = gr.Radio(
                    list(NEW_FACES),
                    value=FRESH,
                    label="New identities",
                    info="A seed or a key makes faces linkable: the results remain personal data.",
                    elem_id="faces",
                )
                seed = gr.Number(1, label="Seed", precision=0, minimum=0, visible=False, elem_id="seed")
                with gr.Accordion("More", open=False):
                    num_candidates = gr.Slider(1, 10, 6, step=1, label="Candidates per face (maximum)")
                    file_format = gr.Dropdown(list(FORMATS), value="png", label="Output format")
                start = gr.Button("Replace faces", variant="primary", interactive=False, elem_id="go")
                status = gr.HTML(status_html([]), elem_id="status")
            with gr.Column(scale=3, min_width=300):
                chooser = gr.Dropdown([], label="Photo", visible=False, interactive=True, elem_id="chooser")
                with gr.Tabs():
                    with gr.Tab("Compare"):
                        compare = gr.HTML(_EMPTY, elem_id="compared")
                    with gr.Tab("Map and mask"):
                        maps = gr.HTML(elem_id="overlay")
                    with gr.Tab("Record"):
                        record = gr.JSON(show_label=False, elem_id="record")
                links = gr.HTML(elem_id="links")

        private: dict[str, Any] = {"api_visibility": "private"}
        quiet = {"show_progress": "hidden", **private}
        result = [compare, maps, record, links]
        controls = [keep, phrases, method, new_faces, seed, num_candidates, file_format]
        files.change(page.upload, [files, session], [status, start, session], **quiet)
        method.change(_show_controls, [method, new_faces], [attributes, new_faces, seed, caution], **quiet)
        new_faces.change(lambda source: gr.update(visible=source == SEED), new_faces, seed, **private)
        start.click(
            page.run,
            [session, *controls],
            [status, chooser, *result],
            concurrency_limit=limits.queue,
            show_progress_on=[status],
            **private,
        )
        chooser.input(page.show, [session, chooser], result, **quiet)

        async def leave(request: gr.Request) -> None:
            # Gradio alone keeps the state of a closed tab for an hour. A coroutine runs on the event loop, where
            # Gradio deletes expired state too.
            blocks.state_holder.delete_state(str(request.session_hash))

        blocks.unload(leave)
    blocks.state_session_capacity = MAX_SESSIONS
    return blocks.queue(max_size=4 * limits.queue, api_open=False)


def _close(session: Session | None) -> None:
    if session is not None:
        session.close()


def _show_controls(method: str, new_faces: str) -> tuple[Any, ...]:
    """Show attributes and identities for generated faces only, and a warning for reversible methods."""
    generates = method == "generate"
    warning = WARNINGS.get(method, "")
    return (
        gr.update(visible=generates),
        gr.update(visible=generates),
        gr.update(visible=generates and new_faces == SEED),
        gr.update(value=status_html([warning], error=True) if warning else "", visible=bool(warning)),
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _summary(session: Session) -> str:
    """Return a line such as "2 photos: 3 faces replaced, 1 face covered"."""
    records = [json.loads(result.record) for result in session.results.values()]
    counts = Counter(face["action"] for record in records for face in record["faces"])
    faces = ", ".join(f"{_count(number, 'face')} {action}" for action, number in counts.items())
    return f"{_count(len(records), 'photo')}: {faces or 'no face found, nothing changed'}"
