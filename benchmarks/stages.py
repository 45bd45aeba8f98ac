"""Where the time of a call goes: every station of an `Anonymizer` behind a stopwatch."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from deid_diffusion.anonymizer import Anonymizer

DENOISER = "denoiser (UNet and ControlNet)"
VAE = "VAE"
PIPELINE = "rest of the pipeline (text, tokens, scheduler)"
REST = "everything else (crops, maps, pasting)"


@dataclass
class Spent:
    """Seconds on the wall's clock, and of all cores together."""

    wall: float = 0.0
    cpu: float = 0.0


class Stopwatch:
    """Adds up what stations take. A station inside another one is taken off the outer one."""

    def __init__(self, device: torch.device) -> None:
        self.spent: dict[str, Spent] = defaultdict(Spent)
        self._device = device
        self._open: list[Spent] = []

    @contextmanager
    def station(self, name: str) -> Iterator[None]:
        inner = Spent()
        begun = self._now()
        self._open.append(inner)
        try:
            yield
        finally:
            self._open.pop()
            wall, cpu = (end - start for start, end in zip(begun, self._now(), strict=True))
            self.spent[name].wall += wall - inner.wall
            self.spent[name].cpu += cpu - inner.cpu
            if self._open:
                self._open[-1].wall += wall
                self._open[-1].cpu += cpu

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: object, **kwargs: object) -> Any:
            with self.station(name):
                return function(*args, **kwargs)

        return timed

    def _now(self) -> tuple[float, float]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter(), time.process_time()


@contextmanager
def watched(anonymizer: Anonymizer) -> Iterator[Stopwatch]:
    """While the block runs, calls of the anonymizer are taken apart; the rest of a call is under `REST`."""
    pipeline = anonymizer.pipeline
    watch = Stopwatch(pipeline.device)
    inside = [
        (anonymizer, "detector", "detectors, both looks"),
        (anonymizer, "landmarker", "face mesh"),
        (anonymizer.verifier, "reference", "verifier"),
        (anonymizer.verifier, "verify", "verifier"),
        (pipeline, "encode_attributes", "attribute encoder"),
        (pipeline.unet, "forward", DENOISER),
        (pipeline.controlnet, "forward", DENOISER),
        (pipeline.vae, "encode", VAE),
        (pipeline.vae, "decode", VAE),
    ]
    with ExitStack() as stack:
        for owner, name, title in inside:
            stack.enter_context(patch.object(owner, name, watch.around(title, getattr(owner, name))))
        kind = type(pipeline)
        stack.enter_context(patch.object(kind, "__call__", watch.around(PIPELINE, kind.__call__)))
        kind = type(anonymizer)
        stack.enter_context(patch.object(kind, "__call__", watch.around(REST, kind.__call__)))
        yield watch
