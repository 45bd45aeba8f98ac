"""Faces of several photos share batches, and what goes wrong with one photo stays with it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.batch import Settings, run
from deid_diffusion.faces.blend import FILL
from deid_diffusion.faces.detected_face import DetectedFace
from deid_diffusion.options import Options
from deid_diffusion.outcomes import Outcome
from deid_diffusion.planning import make_plan

from .fake_gate import FAIL, PASS, FakeGate

FACE = DetectedFace((170.0, 60.0, 270.0, 190.0), 0.9, "given")
CORE = (slice(90, 170), slice(190, 250))


@pytest.fixture
def folder(astronaut: np.ndarray, tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for k in range(5):
        Image.fromarray(np.roll(astronaut, k, axis=2)).save(tmp_path / "in" / f"{k}.png")
    return tmp_path


@pytest.fixture
def sizes(tiny_pipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each batch that is generated."""
    found: list[int] = []
    original = type(tiny_pipeline).__call__

    def counting(self, **given):
        found.append(len(given["image"]))
        return original(self, **given)

    monkeypatch.setattr(type(tiny_pipeline), "__call__", counting)
    return found


def model(tiny_pipeline, gate: FakeGate | None = None) -> Anonymizer:
    return Anonymizer(
        tiny_pipeline, detector=lambda image: [FACE], landmarker=lambda crop: None, gate=gate or FakeGate()
    )


def process(folder: Path, anonymizer: Anonymizer, out: str = "out", **options: object) -> list[Outcome]:
    plan = make_plan([folder / "in"], folder / out)
    return list(
        run(plan, lambda: anonymizer, Settings(Options(fill_colour="grey", **options)), folder / "report.jsonl")
    )


def test_faces_of_several_photos_share_batches(tiny_pipeline, folder: Path, sizes: list[int]) -> None:
    outcomes = process(folder, model(tiny_pipeline), batch_size=3)
    assert sizes == [3, 2]
    assert [outcome.report.input for outcome in outcomes] == [f"in/{k}.png" for k in range(5)]
    assert all(outcome.report.status == "done" and outcome.report.seconds > 0 for outcome in outcomes)
    assert len((folder / "report.jsonl").read_text().splitlines()) == 5


def test_shared_batches_give_what_single_ones_give(tiny_pipeline, folder: Path) -> None:
    process(folder, model(tiny_pipeline), "together", batch_size=4, seed=5)
    process(folder, model(tiny_pipeline), "alone", batch_size=1, seed=5)
    for k in range(5):
        pictures = [np.asarray(Image.open(folder / out / f"{k}.png")).astype(int) for out in ("together", "alone")]
        assert np.abs(pictures[0] - pictures[1]).max() <= 2


def test_further_candidates_of_several_photos_share_a_batch(tiny_pipeline, folder: Path, sizes: list[int]) -> None:
    gate = FakeGate(lambda n: FAIL if n in (1, 3) else PASS)
    outcomes = process(folder, model(tiny_pipeline, gate), batch_size=5, attempts=3)
    assert sizes == [5, 2]
    assert [outcome.report.faces[0].attempts for outcome in outcomes] == [1, 2, 1, 2, 1]


def test_a_face_that_breaks_a_batch_covers_only_its_photo(
    tiny_pipeline, folder: Path, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    import deid_diffusion.generation as generation

    real, third = generation.erase, np.roll(astronaut, 2, axis=2)

    def broken(photo: np.ndarray, gone: np.ndarray) -> np.ndarray:
        if np.array_equal(photo, third):
            raise MemoryError
        return real(photo, gone)

    monkeypatch.setattr(generation, "erase", broken)
    outcomes = process(folder, model(tiny_pipeline), batch_size=5)
    actions = [outcome.report.faces[0].action for outcome in outcomes]
    assert actions == ["replaced", "replaced", "covered", "replaced", "replaced"]
    assert (np.asarray(Image.open(folder / "out" / "2.png"))[CORE] == FILL).all()


def test_a_photo_that_cannot_be_finished_stops_only_itself(
    tiny_pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anonymizer = model(tiny_pipeline)
    finish, calls = anonymizer.finish, iter(range(9))

    def broken(*given: object) -> object:
        if next(calls) == 1:
            raise RuntimeError("no")
        return finish(*given)

    monkeypatch.setattr(anonymizer, "finish", broken)
    outcomes = process(folder, anonymizer, batch_size=5)
    assert [outcome.report.status for outcome in outcomes] == ["done", "failed", "done", "done", "done"]
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["0.png", "2.png", "3.png", "4.png"]


def test_large_photos_wait_for_no_others(
    tiny_pipeline, folder: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deid_diffusion.photos._ROOM", 512 * 512 * 2)
    process(folder, model(tiny_pipeline), batch_size=8)
    assert sizes == [2, 2, 1]
