"""Fakes that other processes can import: an anonymizer that turns pictures' colours round, also one that kills."""

from __future__ import annotations

import io
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from deid_diffusion.batch.tasks import JobConfig
from deid_diffusion.errors import DeidError
from deid_diffusion.identity.keys import Key
from deid_diffusion.identity.pseudonyms import Pseudonyms
from deid_diffusion.options import Options
from tests.fake_anonymizer import FakeAnonymizer


def load(model: str, device: str) -> FakeAnonymizer:
    return FakeAnonymizer()


def missing_model(model: str, device: str) -> FakeAnonymizer:
    raise DeidError("no such model")


class Deadly(FakeAnonymizer):
    """Its process is killed by a black picture, so many times; the name of the model is a folder and the times."""

    def __call__(self, image, options=None, **wishes):
        if not image.any():
            folder, _, times = self.model_name.rpartition(":")
            deaths = len(list(Path(folder).iterdir()))
            if deaths < int(times):
                Path(folder, f"{deaths}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(image, options, **wishes)


def load_deadly(model: str, device: str) -> Deadly:
    return Deadly(model_name=model)


class Linking(Deadly):
    """It says of each photo whose it is: pictures with an odd and an even first value are two people's."""

    def __call__(self, image, options=None, **wishes):
        result = super().__call__(image, options, **wishes)
        person = options.pseudonyms.person(np.eye(4)[int(image[0, 0, 0]) % 2])
        result.faces = (replace(result.faces[0], pseudonym=person.id),)
        return result


def load_linking(model: str, device: str) -> Linking:
    return Linking(model_name=model)


def linking_once_killed(deaths: Path) -> JobConfig:
    """With a store of people; the black picture kills one worker. The folder is made, to count that."""
    deaths.mkdir()
    people = Pseudonyms(Key(bytes(range(32))), "people", recogniser="fake", dimension=4, threshold=0.5)
    return JobConfig(load_linking, f"{deaths}:1", Options(pseudonyms=people))


RECIPE = JobConfig(load)


def pixels(number: int, side: int = 16) -> np.ndarray:
    """(side, side, 3) uint8; number 0 is black, the others are noise."""
    if not number:
        return np.zeros((side, side, 3), np.uint8)
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)


def encoded(number: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(number)).save(stream, kind)
    return stream.getvalue()


def put(numbers: range) -> None:
    """Write pictures of these numbers into the folder `in`."""
    for k in numbers:
        Path("in", f"p{k}.png").write_bytes(encoded(k))


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
