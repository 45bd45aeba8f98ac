"""What a run reports while it goes: ``log.jsonl``, Accelerate's trackers and contact sheets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image

from .config import TrainConfig

_ONE_IMAGE = ("aim", "clearml")  # the other trackers' ``log_images`` take a list


class RunLog:
    """The main process's record of a run, going on after ``step``."""

    def __init__(self, accelerator: Accelerator, config: TrainConfig, step: int) -> None:
        self.accelerator, self.folder = accelerator, config.output_dir
        if not accelerator.is_main_process:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # the lines of steps that are about to be done again go
        kept = "".join(json.dumps(row) + "\n" for row in read(self.folder) if row["step"] <= step)
        (self.folder / "log.jsonl.new").write_text(kept)
        (self.folder / "log.jsonl.new").replace(self.folder / "log.jsonl")
        if config.report_to is not None:
            accelerator.init_trackers(self.folder.resolve().name, config.shown())

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Note one step's figures."""
        if self.accelerator.is_main_process:
            row = {"step": step} | {name: round(value, 6) for name, value in figures.items()}
            with (self.folder / "log.jsonl").open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            self.accelerator.log(dict(figures), step=step)

    def show(self, step: int, sheet: np.ndarray) -> None:
        """Keep a contact sheet, (H, W, 3) uint8, as ``validation/step-000500.png`` and in trackers that take images."""
        path = self.folder / "validation" / f"step-{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(sheet).save(path)
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                shown = sheet if tracker.name in _ONE_IMAGE else sheet[None]
                tracker.log_images({"validation": shown}, step=step, **layout)


def read(folder: Path) -> Iterator[dict[str, float]]:
    """The rows of a folder's ``log.jsonl``, but for a last one that a crash cut off."""
    log = folder / "log.jsonl"
    for line in log.read_text().splitlines() if log.is_file() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
