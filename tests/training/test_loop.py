import json
import logging
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from torch import nn

from deid_diffusion.training.config import read_log
from deid_diffusion.training.loop import RunLog, list_checkpoints, model_card
from tests.training.line import Line, line_config, rows, run, weights


def test_oldest_checkpoints_removed(tmp_path: Path) -> None:
    run(tmp_path, 10)
    assert list(list_checkpoints(tmp_path)) == [9, 10]
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"checkpoint-10", "checkpoint-9"}


def test_resume_within_epoch(tmp_path: Path) -> None:
    uninterrupted = run(tmp_path / "uninterrupted", 13)
    assert run(tmp_path / "resumed", 6, resume_from_checkpoint="latest") == uninterrupted[:6]  # an epoch has 5 steps
    assert run(tmp_path / "resumed", 13, resume_from_checkpoint="latest") == pytest.approx(uninterrupted, abs=1e-5)


@pytest.mark.parametrize("name", ["checkpoint-3", "{folder}/checkpoint-3/"])
def test_resume_from_named_checkpoint(tmp_path: Path, name: str) -> None:
    uninterrupted = run(tmp_path, 4)
    (tmp_path / "checkpoint-4").rename(tmp_path / "lost")
    resumed = run(tmp_path, 4, resume_from_checkpoint=name.format(folder=tmp_path))
    assert resumed == pytest.approx(uninterrupted, abs=1e-5)


def test_other_checkpoints_refused(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "elsewhere", "."):
        with pytest.raises(FileNotFoundError, match="no such checkpoint folder: check the name"):
            run(tmp_path, 3, resume_from_checkpoint=name)
    run(tmp_path, 4)
    with pytest.raises(ValueError, match="holds checkpoint-4, but this run starts at step 0"):
        run(tmp_path, 4)
    assert list(list_checkpoints(tmp_path)) == [3, 4]


def test_log_of_repeated_steps(tmp_path: Path) -> None:
    run(tmp_path, 4)
    (tmp_path / "checkpoint-4").rename(tmp_path / "lost")  # leaves the one of step 3
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"step": 5, "lo')
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3, 4]
    run(tmp_path, 6, resume_from_checkpoint="latest")
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


class Notebook(GeneralTracker):
    """A tracker that takes images."""

    name, requires_logging_directory, tracker = "notebook", False, None

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple] = []

    def store_init_configuration(self, values) -> None:
        self.notes.append(("options", values))

    def log(self, values, step=None, **kwargs) -> None:
        self.notes.append((step, values))

    def log_images(self, values, step=None, **kwargs) -> None:
        self.notes.append((step, {name: value.shape for name, value in values.items()}))


def test_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook()
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["notebook"])
    accelerator = Accelerator(log_with=notebook)
    log = RunLog(accelerator, line_config(tmp_path, 3, report_to="notebook", hub_token="hf_secret"), 0)
    log.write(1, {"loss": 0.5})
    log.write_image(1, np.zeros((4, 6, 3), np.uint8))
    (_, options), *values = notebook.notes
    assert options["max_train_steps"] == 3
    assert "hf_secret" not in str(options)
    assert values == [(1, {"loss": 0.5}), (1, {"validation": (1, 4, 6, 3)})]
    assert (tmp_path / "validation" / "step-000001.png").is_file()


def test_validation_sheets(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", 9)
    run(tmp_path / "validated", 6, validation_steps=2)
    assert run(tmp_path / "validated", 9, validation_steps=2, resume_from_checkpoint="latest") == plain
    sheets = sorted((tmp_path / "validated" / "validation").iterdir())
    assert [sheet.name for sheet in sheets] == [f"step-00000{k}.png" for k in (2, 4, 6, 8)]
    assert np.asarray(Image.open(sheets[0])).shape == (4, 6, 3)


def test_validation_uses_averaged_weights(tmp_path: Path) -> None:
    slopes = []

    class Watched(Line):
        def validate(self) -> None:
            assert not self.training
            slopes.append(self.slope.weight.item())

    objective = Watched()
    run(tmp_path, 6, objective, validation_steps=6, ema_decay=0.99)
    assert slopes == [weights(tmp_path)["weight"].item()] == [objective.slope.weight.item()]
    assert not (tmp_path / "validation").exists()


def test_loss_decreases_over_epochs(tmp_path: Path) -> None:
    losses = run(tmp_path, None, num_train_epochs=12)
    assert len(losses) == 12 * 5
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])


def test_gradient_accumulation(tmp_path: Path) -> None:
    large = run(tmp_path / "large", 7, Line(noise=0))
    small = run(tmp_path / "small", 7, Line(noise=0), train_batch_size=2, gradient_accumulation_steps=2)
    assert small == pytest.approx(large, abs=1e-5)
    assert weights(tmp_path / "small")["weight"].item() == pytest.approx(weights(tmp_path / "large")["weight"].item())


@pytest.mark.parametrize("options", [{}, {"learning_rate": 0.05 / 4, "scale_lr": True}])
def test_learning_rate(tmp_path: Path, options: dict) -> None:
    run(tmp_path, 4, **options)
    assert [row["lr"] for row in rows(tmp_path)] == pytest.approx([0.025, 0.05, 0.05, 0.05])


def test_finished_run_rewrites_card(tmp_path: Path) -> None:
    run(tmp_path, 5)
    before = weights(tmp_path)
    (tmp_path / "figures.json").write_text('{"face_found_again": 0.97}')
    assert len(run(tmp_path, 5, resume_from_checkpoint="latest")) == 5
    assert all(torch.equal(before[name], value) for name, value in weights(tmp_path).items())
    assert "`face_found_again` | 0.97" in (tmp_path / "README.md").read_text()


def test_too_few_crops(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds 20 crops, fewer than the 21 of one step"):
        run(tmp_path, 3, train_batch_size=7, gradient_accumulation_steps=3)


def test_gradient_checkpointing(tiny_pipeline) -> None:
    objective = Line()
    with pytest.raises(ValueError, match="no model of this training supports it"):
        objective.enable_gradient_checkpointing()
    models = [deepcopy(getattr(tiny_pipeline, name)) for name in ("unet", "vae", "text_encoder")]
    objective.unet, objective.vae, objective.text, objective.other = *models, nn.Identity()
    objective.enable_gradient_checkpointing()
    assert all(model.is_gradient_checkpointing for model in models)


def test_card(tmp_path: Path) -> None:
    rows = [{"file": "a.jpg", "source": "faker", "kind": "synthetic"}] * 2 + [{"file": "c.jpg"}]
    rows += [{"file": "b.jpg", "source": "attic", "kind": "photograph", "license": "CC BY 4.0"}]
    log = [{"step": k, "loss": 100.0 if k <= 50 else 0.25, "lr": 0.1, "seconds": k} for k in range(1, 151)]
    for name, values in (("rows", rows), ("log", log)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    (tmp_path / "figures.json").write_text(json.dumps({"photos": 180, "cosine_median": 0.12468, "judge": None}))
    card = model_card(Line(), line_config(tmp_path, 9, hub_model_id="me/line", hub_token="hf_secret"))
    data = ModelCard(card).data.to_dict()
    assert (data["license"], data["library_name"]) == ("apache-2.0", "diffusers")
    assert "face-de-identification" in data["tags"]
    for text in (
        "# me/line",
        "| faker | synthetic | CC0-1.0 | 1 | 2 |",
        "| attic | photograph | CC BY 4.0 | 1 | 1 |",
        "| not stated | not stated | not stated | 1 | 1 |",
        "150 optimizer steps. Means over the last 100:",
        "| loss | 0.25 |",
        "| `learning_rate` | 0.05 |",
        "| `cosine_median` | 0.1247 |",
        "not anonymisation of people",
        "pseudonymisation",
    ):
        assert text in card
    assert "hf_secret" not in card
    assert str(tmp_path) not in card
    card = model_card(Line(), line_config(tmp_path / "empty", 9))
    for text in ("## Training data\n\nNot recorded.", "No step was logged.", "## Measured figures\n\nNone yet."):
        assert text in card


def test_push_without_training_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {}

    def create_repo(name: str, **options: object) -> SimpleNamespace:
        calls["create"] = (name, options)
        return SimpleNamespace(repo_id=f"me/{name}")

    def upload_folder(**options: object) -> None:
        files = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()]
        calls["upload"] = options
        calls["files"] = sorted(filter_repo_objects(files, ignore_patterns=options["ignore_patterns"]))

    monkeypatch.setattr(huggingface_hub, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    for private in ("encoded/latents.npy", "logs/run/events", "partial-9/x"):
        (tmp_path / private).parent.mkdir(parents=True)
        (tmp_path / private).write_text("")
    run(tmp_path, 3, push_to_hub=True, hub_model_id="line", hub_token="hf_secret", validation_steps=2)
    assert calls["create"] == ("line", {"token": "hf_secret", "exist_ok": True})
    assert calls["upload"]["repo_id"] == "me/line"
    assert calls["files"] == ["README.md", "log.jsonl", "slope.pt"]


def test_push_failure_is_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def create_repo(*args: object, **options: object) -> None:
        raise ConnectionError("Cannot reach https://huggingface.co\nand more about it")

    monkeypatch.setattr(huggingface_hub, "create_repo", create_repo)
    with caplog.at_level(logging.WARNING, "deid_diffusion"):
        run(tmp_path, 3, push_to_hub=True)
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("deid_diffusion")]
    assert "was not uploaded (ConnectionError: Cannot reach https://huggingface.co)" in line
    assert "\n" not in line
    assert (tmp_path / "slope.pt").is_file()
