import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.line import Line, rows, run, weights


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which ``processes.py`` left its trainings."""
    folder = tmp_path_factory.mktemp("processes")
    script, quiet = Path(__file__).with_name("processes.py"), {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", script, folder],
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return folder


def curve(folder: Path) -> list[dict[str, float]]:
    """Steps, losses, rates and other figures, one of which not every batch has."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows(folder)]


def assert_same(one: Path, other: Path) -> None:
    assert len(curve(one)) == len(curve(other))
    for a, b in zip(curve(one), curve(other), strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    for name, value in weights(one).items():
        assert value.item() == pytest.approx(weights(other)[name].item(), abs=1e-5)


def test_two_processes_equal_one_that_accumulates(done: Path, tmp_path: Path) -> None:
    run(tmp_path, 8, Line(noise=0), train_batch_size=2, gradient_accumulation_steps=2, lr_scheduler="cosine")
    assert_same(done / "ddp", tmp_path)


def test_two_sharded_processes_resumed_equal_one_that_accumulates(done: Path, tmp_path: Path) -> None:
    run(tmp_path, 8, Line(noise=0), train_batch_size=2, gradient_accumulation_steps=2, ema_decay=0.0)
    assert_same(done / "fsdp", tmp_path)
    assert (done / "fsdp" / "validation" / "step-000007.png").is_file()


@pytest.mark.parametrize("kind", ["ddp", "bf16"])
def test_resume_is_exact(done: Path, kind: str) -> None:
    assert_same(done / f"{kind}_parts", done / f"{kind}_whole")


@pytest.mark.parametrize(("place", "logged"), [("step", 7), ("checkpoint", 6)])
def test_a_killed_run_goes_on_as_if_nothing_had_been(done: Path, tmp_path: Path, place: str, logged: int) -> None:
    whole = run(tmp_path, 13)
    assert len(rows(done / place)) == logged
    assert run(done / place, 13, resume_from_checkpoint="latest") == pytest.approx(whole, abs=1e-5)
    assert_same(done / place, tmp_path)
