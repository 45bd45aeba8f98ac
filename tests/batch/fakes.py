"""Fakes that other processes can import, and a run over the folder `in` with them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from deid_diffusion.batch.dataset import DatasetRun, run_in_process
from deid_diffusion.batch.journal import WORK, RunDirectory
from deid_diffusion.batch.tasks import Engine, JobConfig, SourceFile
from deid_diffusion.errors import DeidError
from deid_diffusion.identity.keys import Key
from deid_diffusion.identity.pseudonyms import Pseudonyms
from deid_diffusion.io import images
from deid_diffusion.options import Options
from deid_diffusion.results import ImageRecord, JobResult
from tests.fake_anonymizer import REPLACED, FakeAnonymizer, expected


def load(model: str, device: str) -> FakeAnonymizer:
    return FakeAnonymizer()


def load_missing(model: str, device: str) -> FakeAnonymizer:
    raise DeidError("no such model")


def load_and_die(model: str, device: str) -> FakeAnonymizer:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class LightAnonymizer(FakeAnonymizer):
    """A fake for worker processes: without torch, they start in less than a second.

    Black images kill the process, a limited number of times; the model's name is a folder and that number.
    """

    def anonymize_bytes(self, data, options, *, name, output, require_face=False):
        photo = images.decode(data, name)
        self.die(photo.pixels)
        encoded = images.encode(Path(output), expected(photo.pixels))
        height, width = photo.pixels.shape[:2]
        record = ImageRecord(
            name, output, "done", photo.sha256, hashlib.sha256(encoded).hexdigest(), width, height,
            faces=self.records(photo.pixels, options), model=self.model_name, gate=self.verifier.description,
        )  # fmt: skip
        return encoded, record

    def die(self, image):
        folder, _, limit = self.model_name.rpartition(":")
        if not image.any() and (deaths := len(list(Path(folder).iterdir()))) < int(limit):
            Path(folder, f"{deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def records(self, image, options):
        return self.faces


def load_light(model: str, device: str) -> LightAnonymizer:
    return LightAnonymizer(model_name=model)


class Linking(LightAnonymizer):
    """The first value of an image is odd for one person and even for another."""

    def records(self, image, options):
        person = options.pseudonyms.person(np.eye(4)[int(image[0, 0, 0]) % 2])
        return (replace(REPLACED, pseudonym=person.id),)


def load_linking(model: str, device: str) -> Linking:
    return Linking(model_name=model)


def linking_config(deaths: Path, limit: int = 1) -> JobConfig:
    """Return settings with a pseudonym store; black images kill `limit` workers, counted in the folder `deaths`."""
    deaths.mkdir()
    pseudonyms = Pseudonyms(Key(bytes(range(32))), "people", recogniser="fake", dimension=4, threshold=0.5)
    return JobConfig(load_linking, f"{deaths}:{limit}", Options(pseudonyms=pseudonyms))


CONFIG, LIGHT = JobConfig(load), JobConfig(load_light)


def pixels(number: int, side: int = 16) -> np.ndarray:
    """(side, side, 3) uint8: black for number 0, else noise."""
    if not number:
        return np.zeros((side, side, 3), np.uint8)
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)


def encoded(number: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(number)).save(stream, kind)
    return stream.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def put(files: dict[str, bytes]) -> None:
    """Write files below the folder `in`."""
    for name, data in files.items():
        path = Path("in", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def put_photos(numbers: range) -> None:
    """Write images of these numbers into the folder `in`."""
    put({f"p{k}.png": encoded(k) for k in numbers})


def process(
    config: JobConfig = CONFIG,
    engine: Engine | None = None,
    inputs: tuple[str | Path, ...] = ("in",),
    mine: Callable[[SourceFile], bool] = lambda source: True,
) -> tuple[list[JobResult], DatasetRun]:
    """Process inputs into the folder `out`, with the manifest `m.jsonl`."""
    directory = RunDirectory.open(Path("out"), config)
    try:
        run = DatasetRun(list(map(Path, inputs)), directory, config, engine or partial(run_in_process, config), mine)
        outcomes = list(run)
        directory.write_manifest(Path("m.jsonl"))
    finally:
        directory.close()
    return outcomes, run


def messages(outcomes: list[JobResult]) -> str:
    return "\n".join(outcome.message or "" for outcome in outcomes)


def failed(outcomes: list[JobResult]) -> list[str]:
    return sorted(outcome.report.input for outcome in outcomes if outcome.report.status == "failed")


def written() -> list[str]:
    """Files below `out`, those of the run itself left out."""
    paths = (path for path in Path("out").rglob("*") if path.is_file() and WORK not in path.parts)
    return sorted(path.relative_to("out").as_posix() for path in paths)


def manifest() -> list[dict]:
    return [json.loads(line) for line in Path("m.jsonl").read_text().splitlines()]
