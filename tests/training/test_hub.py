import json
import logging
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects

from deid_diffusion.training.loop import model_card
from tests.training.line import Line, line_config, run


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
