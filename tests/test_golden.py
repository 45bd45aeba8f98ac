"""Golden results of the built-in model on invented faces, and the same results from every front end.

After a change that is meant to alter pictures, run ``python -m tests.test_golden`` and look at ``tests/golden``.
"""

import io
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.batch import photos
from deid_diffusion.batch.dataset import DatasetRun, run_in_process
from deid_diffusion.batch.journal import RunDirectory
from deid_diffusion.batch.planning import make_plan
from deid_diffusion.batch.tasks import JobConfig
from deid_diffusion.io import images
from deid_diffusion.options import Options

GOLDEN = Path(__file__).with_name("golden")
SHEET = Path(__file__).resolve().parents[1] / "docs" / "synthetic.jpg"
#: With these seeds no similarity is near the threshold, where another processor might decide otherwise.
OPTIONS, CLIP_OPTIONS = Options(seed=12), Options(seed=22)
FRAMES = 5
SMALL = 8  # pixels of a clip's frame per pixel of its golden result


def picture() -> np.ndarray:
    """(192, 384, 3) uint8 RGB, two faces."""
    return np.asarray(Image.open(SHEET).convert("RGB"))[:192, 192:576]


def anonymize_frames(anonymizer: Anonymizer, folder: Path) -> np.ndarray:
    """De-identify a clip of one face that moves: (F, H / 8, W / 8, 3) float32, means of the result's pixels."""
    from deid_diffusion.io.video import open_clip
    from deid_diffusion.video.anonymize import anonymize_clip
    from tests.video.clips import read, write

    face = picture()[:, :192]
    frames = [np.ascontiguousarray(np.pad(face, ((32, 32), (64, 64), (0, 0)), "edge")) for _ in range(FRAMES)]
    frames = [np.roll(frame, 2 * k, axis=1) for k, frame in enumerate(frames)]
    source = write(folder / "clip.mp4", frames)
    anonymize_clip(anonymizer, open_clip(source), folder / "result.mp4", CLIP_OPTIONS)
    shrunk = [cv2.resize(frame.astype(np.float32), None, fx=1 / SMALL, fy=1 / SMALL, interpolation=cv2.INTER_AREA)
              for frame in read(folder / "result.mp4")]  # fmt: skip
    return np.stack(shrunk)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def differences(result: np.ndarray, expected: np.ndarray) -> np.ndarray:
    assert result.shape == expected.shape
    return np.abs(result.astype(np.float32) - expected.astype(np.float32))


@pytest.fixture(scope="module")
def direct(anonymizer: Anonymizer) -> np.ndarray:
    result = anonymizer(picture(), OPTIONS)
    assert [face.action for face in result.faces] == ["replaced", "replaced"]
    return np.asarray(result.image)


def test_golden_photo(direct):
    """Processors round differently, by a level here and there; another person would differ by tens of levels."""
    away = differences(direct, np.asarray(Image.open(GOLDEN / "photo.png").convert("RGB")))
    assert away.mean() < 0.25
    assert np.quantile(away, 0.999) <= 4


def test_golden_clip(anonymizer, tmp_path):
    pytest.importorskip("av")
    away = differences(anonymize_frames(anonymizer, tmp_path), np.load(GOLDEN / "clip.npy"))
    assert away.mean() < 0.5
    assert away.max() < 6


def test_batch_equals_call(anonymizer, direct, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in "ab":
        (tmp_path / "photos" / f"{name}.png").write_bytes(png(picture()))
    plan = make_plan([tmp_path / "photos"], tmp_path / "out")
    outcomes = list(photos.run(plan, lambda: anonymizer, photos.Settings(OPTIONS)))
    assert [outcome.report.status for outcome in outcomes] == ["done", "done"]
    for name in "ab":
        assert differences(images.read(tmp_path / "out" / f"{name}.png").pixels, direct).max() <= 1


def test_dataset_equals_call(anonymizer, direct, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("in", "a.png").write_bytes(png(picture()))
    recipe = JobConfig(lambda model, device: anonymizer, options=OPTIONS)
    place = RunDirectory.open(Path("out"), recipe)
    try:
        outcomes = list(DatasetRun([Path("in")], place, recipe, partial(run_in_process, recipe)))
    finally:
        place.close()
    assert [outcome.report.status for outcome in outcomes] == ["done"]
    assert differences(images.read("out/a.png").pixels, direct).max() <= 1


def test_service_equals_call(anonymizer, direct):
    pytest.importorskip("fastapi", reason="the service needs deid-diffusion[service]")
    from deid_diffusion.serving.http import make_app
    from deid_diffusion.serving.server import Limits
    from tests.serving.servers import ask, serving

    with serving(make_app(anonymizer, Limits())) as port:
        answer = ask(port, "POST", "/v1/anonymize?seed=12&format=png", png(picture()))
    assert answer.status == 200
    assert differences(answer.pixels, direct).max() <= 1


def main() -> None:
    """Renew the golden results."""
    import tempfile

    anonymizer = Anonymizer.from_pretrained("builtin", device="cpu", dtype=torch.float32)
    GOLDEN.mkdir(exist_ok=True)
    anonymizer(picture(), OPTIONS).image.save(GOLDEN / "photo.png", optimize=True)
    with tempfile.TemporaryDirectory() as folder:
        np.save(GOLDEN / "clip.npy", anonymize_frames(anonymizer, Path(folder)).astype(np.float16))


if __name__ == "__main__":
    main()
