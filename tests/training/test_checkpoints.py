from pathlib import Path

import pytest
from line import run

from deid_diffusion.training.checkpoints import complete


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    run(tmp_path, 10)
    assert list(complete(tmp_path)) == [9, 10]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["checkpoint-10", "checkpoint-9"]


def test_a_half_written_one_is_not_taken(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 6)
    folder = tmp_path / "parts"
    run(folder, 4)
    (folder / "checkpoint-4").rename(folder / "partial-4")
    (folder / "partial-4" / "optimizer.bin").write_bytes(b"half of i")
    assert run(folder, 6, resume_from_checkpoint="latest") == pytest.approx(whole, abs=1e-5)
    assert not list(folder.glob("partial-*"))


def test_resuming_without_a_checkpoint_starts_from_the_beginning(tmp_path: Path) -> None:
    assert len(run(tmp_path, 3, resume_from_checkpoint="latest")) == 3


def test_a_checkpoint_may_be_named_by_its_path_or_by_its_name_alone(tmp_path: Path) -> None:
    whole = run(tmp_path, 4)
    (tmp_path / "checkpoint-4").rename(tmp_path / "lost")
    assert run(tmp_path, 4, resume_from_checkpoint="checkpoint-3") == pytest.approx(whole, abs=1e-5)
    assert run(tmp_path, 4, resume_from_checkpoint=f"{tmp_path}/checkpoint-4/") == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("name", ["checkpoint-9", "elsewhere", "."])
def test_a_named_one_that_is_missing_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="there is no checkpoint folder"):
        run(tmp_path, 3, resume_from_checkpoint=name)


def test_a_new_run_does_not_mix_with_the_checkpoints_of_an_old_one(tmp_path: Path) -> None:
    run(tmp_path, 4)
    with pytest.raises(ValueError, match="holds checkpoint-4, and this run starts at step 0"):
        run(tmp_path, 4)
    assert list(complete(tmp_path)) == [3, 4]
