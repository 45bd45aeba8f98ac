import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from deid_diffusion.training.config import TrainConfig, parse, run_script
from tests.training.line import run

REQUIRED = ["--train_data_dir", "a", "--output_dir", "b"]


@dataclass(frozen=True)
class ModelConfig(TrainConfig):
    widths: str = field(default="1,2", metadata={"help": "widths, 100%% made up"})
    depths: int | None = field(default=None, metadata={"help": "depths of the model"})
    fast: bool = field(default=False, metadata={"help": "train fast"})


def test_parse() -> None:
    flags = ["--fast", "--learning_rate", "1e-3", "--depths", "3", "--max_train_steps", "9"]
    config = parse(ModelConfig, "", [*REQUIRED, *flags])
    assert config == ModelConfig(Path("a"), Path("b"), fast=True, learning_rate=1e-3, depths=3, max_train_steps=9)
    config = TrainConfig(Path("a"), Path("b"), hub_token="hf_secret")
    assert "hf_secret" not in f"{config} {config.public_options()}"
    assert config.public_options()["learning_rate"] == 2e-4


BAD = """--train_batch_size 0, --mixed_precision int8, --max_train_steps 0, --checkpoints_total_limit 0, --ema_decay 1,
    --report_to a_notebook, --max_train_steps many, --no_such_option 1"""


@pytest.mark.parametrize("arguments", [*([*REQUIRED, *flags.split()] for flags in BAD.split(",")), []])
def test_bad_options(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(ModelConfig, "", arguments)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err.splitlines()[-1]


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(ModelConfig, "Train a model.", ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Train a model." in text
    assert "--seed SEED random seed for initial weights, sampling and noise (default: 0)" in text
    assert "--widths WIDTHS widths, 100% made up (default: 1,2)" in text
    assert "--depths DEPTHS depths of the model --fast" in text
    assert all(option.metadata["help"] for option in fields(ModelConfig))


def test_8bit_adam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match="needs bitsandbytes: pip install bitsandbytes"):
        run(tmp_path, 3, use_8bit_adam=True)
    arguments = []

    class AdamW8bit(torch.optim.AdamW):
        def __init__(self, *args, **kwargs) -> None:
            arguments.append(kwargs)
            super().__init__(*args, **kwargs)

    fake = ModuleType("bitsandbytes")
    fake.__spec__, fake.optim = ModuleSpec("bitsandbytes", None), SimpleNamespace(AdamW8bit=AdamW8bit)
    monkeypatch.setitem(sys.modules, "bitsandbytes", fake)
    run(tmp_path, 3, use_8bit_adam=True, adam_beta1=0.8, adam_epsilon=1e-6)
    assert arguments == [{"lr": 0.05, "betas": (0.8, 0.999), "eps": 1e-6, "weight_decay": 1e-2}]


def missing() -> None:
    raise FileNotFoundError("there is no cache here")


@pytest.mark.parametrize(("main", "code"), [(missing, "error: there is no cache here"), (lambda: None, 0)])
def test_exit_code(main: Callable[[], None], code: int | str) -> None:
    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == code
