import dataclasses
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from deid_diffusion.training.config import TrainConfig, parse, run_script
from tests.training.line import run

REQUIRED = ["--train_data_dir", "a", "--output_dir", "b"]


@dataclass(frozen=True)
class _More(TrainConfig):
    """Attributes: widths, depths: of the model, 100 % made up. fast: not slow."""

    widths: str = "1,2"
    depths: int | None = None
    fast: bool = False


def test_flags_come_from_the_dataclass() -> None:
    config = parse(
        _More, "", [*REQUIRED, "--fast", "--learning_rate", "1e-3", "--depths", "3", "--max_train_steps", "9"]
    )
    assert config == _More(Path("a"), Path("b"), fast=True, learning_rate=1e-3, depths=3, max_train_steps=9)


@pytest.mark.parametrize(
    "flags",
    [
        ["--train_batch_size", "0"],
        ["--mixed_precision", "int8"],
        ["--max_train_steps", "0"],
        ["--checkpoints_total_limit", "0"],
        ["--ema_decay", "1"],
        ["--report_to", "a_notebook"],
        ["--max_train_steps", "many"],
        [],
    ],
)
def test_bad_flags_exit_with_one_line(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(_More, "", [*(REQUIRED if flags else []), *flags])
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err.splitlines()[-1]


def test_help_says_what_the_docstrings_say(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(_More, "What it does.", ["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "What it does." in said
    assert "--seed SEED of sampling, noise and initial weights. (default: 0)" in said
    assert "--lr_scheduler LR_SCHEDULER a name that diffusers' get_scheduler knows." in said
    assert "--widths WIDTHS of the model, 100 % made up. (default: 1,2)" in said
    assert "--depths DEPTHS of the model, 100 % made up. --fast not slow." in said
    assert "--output_dir OUTPUT_DIR checkpoints and the finished model. (required)" in said


def test_every_option_is_documented() -> None:
    for field in dataclasses.fields(TrainConfig):
        assert f"        {field.name}: " in (TrainConfig.__doc__ or ""), field.name


def test_a_token_is_never_shown() -> None:
    config = TrainConfig(Path("a"), Path("b"), hub_token="hf_secret")
    assert "hf_secret" not in f"{config} {config.shown()}"
    assert config.shown()["learning_rate"] == 2e-4


def test_eight_bit_adam_is_there_or_missed_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match="needs bitsandbytes: pip install bitsandbytes"):
        run(tmp_path, 3, use_8bit_adam=True)
    taken = []

    class AdamW8bit(torch.optim.AdamW):
        def __init__(self, *args, **kwargs) -> None:
            taken.append(kwargs)
            super().__init__(*args, **kwargs)

    fake = ModuleType("bitsandbytes")
    fake.__spec__, fake.optim = ModuleSpec("bitsandbytes", None), SimpleNamespace(AdamW8bit=AdamW8bit)
    monkeypatch.setitem(sys.modules, "bitsandbytes", fake)
    run(tmp_path, 3, use_8bit_adam=True, adam_beta1=0.8, adam_epsilon=1e-6)
    assert taken == [{"lr": 0.05, "betas": (0.8, 0.999), "eps": 1e-6, "weight_decay": 1e-2}]


def test_what_a_script_complains_of_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise FileNotFoundError("there is no cache here")

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == "error: there is no cache here"
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: None)
    assert stop.value.code == 0
