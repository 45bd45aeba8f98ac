"""The page's HTML: pictures as data URIs, the slider over them, messages and links."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..preview import MAX_SIDE, draw_maps, draw_masks

if TYPE_CHECKING:
    from ..faces.analysis import FaceAnalysis

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


def status(lines: Sequence[str], *, wrong: bool = False) -> str:
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
