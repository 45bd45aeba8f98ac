"""Clips of people who do not exist, who move over a background, with sound: all positions are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.io.video import open_clip
from deid_diffusion.options import Options
from deid_diffusion.video.anonymize import AnonymizedVideo, anonymize_clip

SHEET = Path(__file__).resolve().parents[2] / "docs" / "synthetic.jpg"
TILE = 192
CORE = (0.36, 0.34, 0.58, 0.7)  # x0, y0, x1, y1: eyes to mouth, as shares of a tile
BITS, SQUARE = 10, 8
FACE = (0.24, 0.2, 0.7, 0.82)
FORMAT = {"codec": "libx264", "pixels": "yuv420p", "rate": Fraction(25), "audio": "aac", "rotation": 0, "colour": 1}


@dataclass(frozen=True)
class Actor:
    """A picture of the sheet that moves: (x, y) of its top left, first and last; frames in which it is there."""

    tile: tuple[int, int] = (0, 1)
    side: int = 120
    start: tuple[int, int] = (10, 60)
    stop: tuple[int, int] = (150, 60)
    frames: tuple[int, int] = (0, 10**6)


@dataclass(frozen=True)
class Scene:
    """Content of a clip: (H, W, 3) uint8 frames, and by frame the tile's (x, y, side) of each actor, None if absent.

    Squares at the bottom, black or white, show each frame's number.
    """

    frames: list[np.ndarray]
    places: list[list[tuple[int, int, int] | None]]

    def box(self, frame: int, actor: int, part: tuple[float, float, float, float]) -> tuple[int, int, int, int] | None:
        place = self.places[frame][actor]
        if place is None:
            return None
        x, y, side = place
        return tuple(round(v) for v in (x + part[0] * side, y + part[1] * side, x + part[2] * side, y + part[3] * side))


def scene(count: int = 50, size: tuple[int, int] = (320, 240), actors: Sequence[Actor] = (Actor(),)) -> Scene:
    sheet = np.asarray(Image.open(SHEET).convert("RGB"))
    width, height = size
    ramp = np.linspace(60, 160, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
    ground = (ramp + np.array([10, 0, -20])).clip(0, 255).astype(np.uint8)
    frames, places = [], []
    for number in range(count):
        frame, here = ground.copy(), []
        for actor in actors:
            if not actor.frames[0] <= number < actor.frames[1]:
                here.append(None)
                continue
            way, side = number / max(1, count - 1), actor.side
            x, y = (round(a + way * (b - a)) for a, b in zip(actor.start, actor.stop, strict=True))
            row, column = actor.tile
            tile = sheet[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
            tile = cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA)
            left, top, right, bottom = max(0, x), max(0, y), min(width, x + side), min(height, y + side)
            if left < right and top < bottom:
                frame[top:bottom, left:right] = tile[top - y : bottom - y, left - x : right - x]
            here.append((x, y, side))
        for bit in range(BITS):
            frame[-SQUARE:, bit * SQUARE : (bit + 1) * SQUARE] = 255 * (number >> bit & 1)
        frames.append(frame)
        places.append(here)
    return Scene(frames, places)


def write(path: Path, frames: Sequence[np.ndarray], *, times: Sequence[int] | None = None, **settings) -> Path:
    """Write a clip of these frames, with a title, a place and a handler's name in it; ``times`` are in 1/1000 s."""
    settings = {**FORMAT, **settings}
    with av.open(str(path), "w") as container:
        container.metadata.update(
            {"title": "Bob's birthday", "location": "+48.0-122.0/", "creation_time": "2020-01-01"}
        )
        height, width = frames[0].shape[:2]
        stream = container.add_stream(settings["codec"], rate=settings["rate"], options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = width, height, settings["pixels"]
        stream.metadata["handler_name"] = "Bob's camera"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = settings["colour"]
        context.color_range = 1
        unit = Fraction(1, 1000) if times is not None else 1 / settings["rate"]
        context.time_base = unit
        if settings["rotation"]:
            stream.set_display_rotation(settings["rotation"])
        sound = container.add_stream(settings["audio"], rate=44100) if settings["audio"] else None
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.colorspace, frame.color_range = settings["colour"], 1
            frame = frame.reformat(format=settings["pixels"])
            frame.pts, frame.time_base = number if times is None else times[number], unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            _hum(container, sound, len(frames) / settings["rate"])
    return path


def _hum(container, stream, seconds) -> None:
    for start in range(0, int(seconds * 44100), 1024):
        wave = (0.2 * np.sin(np.arange(start, start + 1024) / 20)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), "fltp", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = 44100, start, Fraction(1, 44100)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def read(path: Path) -> list[np.ndarray]:
    """Read every frame, (H, W, 3) uint8 RGB, upright."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    for frame in frames:
        frame.color_trc = frame.color_primaries = 2  # PyAV before 18 refuses to convert some
    return [np.rot90(frame.reformat(format="rgb24").to_ndarray(), round(frame.rotation / 90)) for frame in frames]


def packets(path: Path) -> list[bytes]:
    """Return the packets of the sound, as stored."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux() if packet.size and packet.stream.type == "audio"]


def number_of(picture: np.ndarray) -> int:
    """Return the number that a frame of a scene shows."""
    squares = [picture[-SQUARE // 2, bit * SQUARE + SQUARE // 2].mean() > 128 for bit in range(BITS)]
    return sum(yes << bit for bit, yes in enumerate(squares))


def shows(shown: Scene, number: int, actor: int, picture: np.ndarray, least: float = 5.0) -> bool:
    """Return whether an actor's own face shows in a picture of a frame."""
    box = shown.box(number, actor, CORE)
    height, width = picture.shape[:2]
    if box is None:
        return False
    x0, y0, x1, y1 = max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3])
    if x0 >= x1 or y0 >= y1:
        return False
    before = shown.frames[number][y0:y1, x0:x1].astype(int)
    return bool(np.abs(before - picture[y0:y1, x0:x1]).mean() < least)


def bare(shown: Scene, result: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Return frames and actors whose original face still shows in the result."""
    assert len(shown.frames) == len(result)
    return [
        (number, actor)
        for number, picture in enumerate(result)
        for actor in range(len(shown.places[number]))
        if shows(shown, number, actor, picture)
    ]


@dataclass
class Clip:
    """A scene, its file, and an anonymizer that detects its faces."""

    scene: Scene
    source: Path
    model: Anonymizer

    @property
    def target(self) -> Path:
        return self.source.parent / "out" / self.source.name

    def run(self, **arguments: Any) -> AnonymizedVideo:
        """Process the clip; keyword arguments are options or arguments of `anonymize_clip`."""
        self.target.parent.mkdir(exist_ok=True)
        own = {name: arguments.pop(name) for name in ("overwrite", "require_face") if name in arguments}
        return anonymize_clip(self.model, open_clip(self.source), self.target, Options(**arguments), **own)

    def frames(self) -> list[np.ndarray]:
        return read(self.target)

    def bare(self) -> list[tuple[int, int]]:
        """Return frames and actors whose original face still shows in the result."""
        return bare(self.scene, self.frames())
