"""The scripts in `examples/` run."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.anonymizer import Anonymizer

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(anonymizer: Anonymizer, astronaut: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run an example with the built-in model, loaded once, beside `photos/a.jpg`; returns nothing."""
    (tmp_path / "photos").mkdir()
    Image.fromarray(astronaut[:256, 96:352]).save(tmp_path / "photos" / "a.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Anonymizer, "from_pretrained", lambda *args, **options: anonymizer)

    def script(name: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return script


def test_anonymize_folder(run, capsys):
    run("anonymize_folder.py", "photos", "out")
    assert Path("out/a.png").is_file()
    assert capsys.readouterr().out.startswith("a.jpg ['")


def test_diffusers_pipeline(run, capsys):
    run("diffusers_pipeline.py", "photos/a.jpg", "result.png")
    assert Image.open("result.png").size == (256, 256)
    assert capsys.readouterr().out.split()[0] in ("replaced", "covered")


def test_pseudonyms(run, capsys):
    for _ in range(2):
        run("pseudonyms.py", "people.key", "people.sqlite", "photos/a.jpg")
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert Path("photos/a_anonymous.png").is_file()


def test_video(run, astronaut, capsys):
    pytest.importorskip("av")
    pytest.importorskip("supervision")
    from tests.video.clips import write

    write(Path("clip.mp4"), [np.ascontiguousarray(astronaut[:192, 128:320])] * 3)
    run("video.py", "clip.mp4", "result.mp4")
    assert Path("result.mp4").is_file()
    assert "frames 0 to 2" in capsys.readouterr().out
