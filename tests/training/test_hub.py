from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects

from deid_diffusion.training.hub import model_card
from tests.training.line import Line, run, settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"file": "a.jpg", "source": "faker", "kind": "synthetic"},
        {"file": "a.jpg", "source": "faker", "kind": "synthetic"},
        {"file": "b.jpg", "source": "attic", "kind": "photograph", "license": "CC BY 4.0"},
        {"file": "c.jpg"},
    ]
    log = [{"step": k, "loss": 100.0 if k <= 50 else 0.25, "lr": 0.1, "seconds": k} for k in range(1, 151)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    (tmp_path / "figures.json").write_text(json.dumps({"photos": 180, "cosine_median": 0.12468, "judge": None}))
    return tmp_path


def test_it_has_the_hubs_front_matter(folder: Path) -> None:
    data = ModelCard(model_card(Line(), settings(folder, 9))).data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "diffusers"
    assert "face-de-identification" in data["tags"]


def test_it_counts_sources_with_their_licences(folder: Path) -> None:
    card = model_card(Line(), settings(folder, 9))
    assert "| faker | synthetic | CC0-1.0 | 1 | 2 |" in card
    assert "| attic | photograph | CC BY 4.0 | 1 | 1 |" in card
    assert "| not stated | not stated | not stated | 1 | 1 |" in card


def test_it_states_options_losses_figures_and_limits(folder: Path) -> None:
    card = model_card(Line(), settings(folder, 9, hub_model_id="me/line", hub_token="hf_secret"))
    assert "# me/line" in card
    assert "150 optimizer steps. Means over the last 100:" in card
    assert "| loss | 0.25 |" in card
    assert "| `learning_rate` | 0.05 |" in card
    assert "| `cosine_median` | 0.1247 |" in card
    assert "not anonymisation of people" in card
    assert "pseudonymisation" in card
    assert "hf_secret" not in card
    assert str(folder) not in card


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    card = model_card(Line(), settings(tmp_path, 9))
    assert "## Training data\n\nNot recorded." in card
    assert "No step was logged." in card
    assert "## Measured figures\n\nNone yet." in card


def test_the_model_and_its_card_go_up_and_nothing_that_shows_training_faces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_an_unreachable_hub_costs_one_line_and_not_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def create_repo(*args: object, **options: object) -> None:
        raise ConnectionError("Cannot reach https://huggingface.co\nand more about it")

    monkeypatch.setattr(huggingface_hub, "create_repo", create_repo)
    with caplog.at_level(logging.WARNING, "deid_diffusion"):
        run(tmp_path, 3, push_to_hub=True)
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("deid_diffusion")]
    assert "was not uploaded (ConnectionError: Cannot reach https://huggingface.co)" in line
    assert "\n" not in line
    assert (tmp_path / "slope.pt").is_file()
