from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from line import rows, run, settings

from deid_diffusion.training.tracking import RunLog, read


class Notebook(GeneralTracker):
    """A tracker that takes images."""

    name, requires_logging_directory = "notebook", False

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple] = []

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values) -> None:
        self.notes.append(("options", values))

    def log(self, values, step=None, **kwargs) -> None:
        self.notes.append((step, values))

    def log_images(self, values, step=None, **kwargs) -> None:
        self.notes.append((step, {name: value.shape for name, value in values.items()}))


def test_steps_that_are_done_again_replace_their_lines(tmp_path: Path) -> None:
    run(tmp_path, 4)  # the checkpoints are at 3 and, being the last, at 4
    (tmp_path / "checkpoint-4").rename(tmp_path / "lost")
    run(tmp_path, 6, resume_from_checkpoint="latest")
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_line_that_a_crash_cut_off_is_dropped(tmp_path: Path) -> None:
    run(tmp_path, 3)
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"step": 4, "lo')
    assert [row["step"] for row in read(tmp_path)] == [1, 2, 3]
    run(tmp_path, 4, resume_from_checkpoint="latest")
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4]


def test_trackers_get_options_figures_and_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook()
    monkeypatch.setattr("deid_diffusion.training.config._check_tracker", lambda name: None)
    accelerator = Accelerator(log_with=notebook)
    log = RunLog(accelerator, settings(tmp_path, 3, report_to="notebook", hub_token="hf_secret"), 0)
    log.write(1, {"loss": 0.5})
    log.show(1, np.zeros((4, 6, 3), np.uint8))
    options, figures, sheet = notebook.notes
    assert options[1]["max_train_steps"] == 3
    assert "hf_secret" not in str(options)
    assert figures == (1, {"loss": 0.5})
    assert sheet == (1, {"validation": (1, 4, 6, 3)})
    assert (tmp_path / "validation" / "step-000001.png").is_file()
