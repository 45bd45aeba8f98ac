import logging
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects
from line import run


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
