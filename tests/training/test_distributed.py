import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.line import Line, rows, run, weights


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of ``processes.py``."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-W", "ignore", Path(__file__).with_name("processes.py"), folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stderr
    return folder


def curve(folder: Path) -> list[dict[str, float]]:
    """Return the log without times; a figure is missing in some batches."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows(folder)]


def assert_same(folder: Path, expected: Path) -> None:
    assert len(curve(folder)) == len(curve(expected))
    for row, expected_row in zip(curve(folder), curve(expected), strict=True):
        assert row == pytest.approx(expected_row, abs=1e-5)
    for name, value in weights(folder).items():
        assert value.item() == pytest.approx(weights(expected)[name].item(), abs=1e-5)


@pytest.mark.parametrize(("kind", "options"), [("ddp", {"lr_scheduler": "cosine"}), ("fsdp", {"ema_decay": 0.0})])
def test_equals_accumulation(trainings: Path, tmp_path: Path, kind: str, options: dict) -> None:
    run(tmp_path, 8, Line(noise=0), train_batch_size=2, gradient_accumulation_steps=2, **options)
    assert_same(trainings / kind, tmp_path)
    assert (trainings / kind / "validation" / "step-000007.png").is_file() == (kind == "fsdp")


@pytest.mark.parametrize("kind", ["ddp", "bf16"])
def test_resume_is_exact(trainings: Path, kind: str) -> None:
    assert_same(trainings / f"{kind}_resumed", trainings / f"{kind}_uninterrupted")


@pytest.mark.parametrize(("place", "logged"), [("step", 7), ("checkpoint", 6)])
def test_resume_after_kill(trainings: Path, tmp_path: Path, place: str, logged: int) -> None:
    uninterrupted = run(tmp_path, 13)
    assert len(rows(trainings / place)) == logged
    assert run(trainings / place, 13, resume_from_checkpoint="latest") == pytest.approx(uninterrupted, abs=1e-5)
    assert_same(trainings / place, tmp_path)
    assert not list((trainings / place).glob("partial-*"))
