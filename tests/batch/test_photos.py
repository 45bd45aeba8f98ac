"""Photos of a run: prefetching, shared batches, results, records and failures."""

from __future__ import annotations

import errno
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from deid_diffusion import results
from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.batch.photos import Settings, prefetch, run
from deid_diffusion.batch.planning import make_plan
from deid_diffusion.errors import DeidError, ImageError
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.compositing import FILL, erase
from deid_diffusion.io import images
from deid_diffusion.options import Options
from deid_diffusion.results import ImageRecord, JobResult, RunStats
from tests.failures import raising
from tests.fake_anonymizer import COVERED, REPLACED, FakeAnonymizer, expected
from tests.fake_verifier import FAIL, PASS, FakeVerifier
from tests.given_faces import CORE, FACE, given_anonymizer


def counted(items: list[int], stop: int = 100) -> Iterator[int]:
    """Yield numbers, and note each before."""
    for k in range(stop):
        items.append(k)
        yield k


def settled(items: list[int]) -> int:
    """Return the number of items when no more come."""
    before = -1
    while len(items) != before:
        before = len(items)
        time.sleep(0.05)
    return before


def test_prefetch_keeps_order():
    assert list(prefetch(range(50), lambda item: 1, 3)) == list(range(50))
    assert list(prefetch([], lambda item: 1, 3)) == []


@pytest.mark.parametrize(("weight", "ahead"), [(0, 100), (1, 4), (2, 2), (50, 1)])
def test_prefetch_respects_budget(weight, ahead):
    fetched: list[int] = []
    with closing(prefetch(counted(fetched), lambda item: weight, 3)) as items:
        assert next(items) == 0
        assert settled(fetched) in (ahead, min(100, ahead + 1))  # the first is taken before or after it counts
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_prefetch_error_order(error):
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    ahead = prefetch(items(), lambda item: 1, 10)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(type(error)):
        next(ahead)


@pytest.fixture
def folder(astronaut: np.ndarray, tmp_path: Path) -> Path:
    """A folder with five photos in `in`."""
    (tmp_path / "in").mkdir()
    for k in range(5):
        Image.fromarray(np.roll(astronaut, k, axis=2)).save(tmp_path / "in" / f"{k}.png", compress_level=1)
    return tmp_path


@pytest.fixture
def model(tiny_pipeline) -> Anonymizer:
    """Detects one face in each photo."""
    return given_anonymizer(tiny_pipeline, FACE)


def process(folder: Path, anonymizer: Anonymizer, out: str = "out", **options: object) -> list[JobResult]:
    plan, settings = make_plan([folder / "in"], folder / out), Settings(Options(fill_colour="grey", **options))
    return list(run(plan, lambda: anonymizer, settings, folder / "report.jsonl"))


def test_photos_share_batches(model, folder, batch_sizes):
    outcomes = process(folder, model, "together", batch_size=3, seed=5)
    assert batch_sizes == [3, 2]
    assert [outcome.report.input for outcome in outcomes] == [f"in/{k}.png" for k in range(5)]
    assert all(outcome.report.status == "done" and outcome.report.seconds > 0 for outcome in outcomes)
    assert len((folder / "report.jsonl").read_text().splitlines()) == 5
    process(folder, model, "alone", batch_size=1, seed=5)
    for k in range(5):
        together, alone = (np.asarray(Image.open(folder / out / f"{k}.png")) for out in ("together", "alone"))
        assert np.abs(together.astype(int) - alone).max() <= 2


def test_more_candidates_share_batches(model, folder, batch_sizes):
    model.verifier = FakeVerifier(lambda n: FAIL if n in (1, 3) else PASS)
    outcomes = process(folder, model, batch_size=5, num_candidates=3)
    assert batch_sizes == [5, 2]
    assert [outcome.report.faces[0].attempts for outcome in outcomes] == [1, 2, 1, 2, 1]


def test_failing_face_covers_only_its_photo(model, folder, astronaut, monkeypatch):
    third = np.roll(astronaut, 2, axis=2)

    def broken(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if np.array_equal(photo, third):
            raise MemoryError
        return erase(photo, mask)

    monkeypatch.setattr("deid_diffusion.faces.face.erase", broken)
    outcomes = process(folder, model, batch_size=5)
    actions = [outcome.report.faces[0].action for outcome in outcomes]
    assert actions == ["replaced", "replaced", "covered", "replaced", "replaced"]
    assert (np.asarray(Image.open(folder / "out" / "2.png"))[CORE] == FILL).all()


def test_failing_photo_stops_only_itself(model, folder, monkeypatch):
    finalize, calls = model.finalize, iter(range(9))

    def broken(*arguments: object) -> object:
        if next(calls) == 1:
            raise RuntimeError("no")
        return finalize(*arguments)

    monkeypatch.setattr(model, "finalize", broken)
    outcomes = process(folder, model, batch_size=5)
    assert [outcome.report.status for outcome in outcomes] == ["done", "failed", "done", "done", "done"]
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["0.png", "2.png", "3.png", "4.png"]


def test_large_photos_wait_for_no_others(model, folder, batch_sizes, monkeypatch):
    monkeypatch.setattr("deid_diffusion.batch.photos._MAX_PIXELS_AHEAD", 512 * 512 * 2)
    process(folder, model, batch_size=8)
    assert batch_sizes == [2, 2, 1]


PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def photos(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS).save(name)


def run_batch(
    inputs: list[str], fake: FakeAnonymizer, out: str | None = "out", *, report_file: str | None = None,
    settings: Settings | None = None, **options: object,
) -> list[JobResult]:  # fmt: skip
    plan = make_plan([Path(name) for name in inputs], Path(out) if out else None, **options)
    return list(run(plan, lambda: fake, settings or Settings(), Path(report_file) if report_file else None))


def test_photo_is_written_and_recorded():
    photos("in/a.png")
    fake = FakeAnonymizer((REPLACED, COVERED))
    (outcome,) = run_batch(
        ["in"], fake, report_file="r.jsonl", settings=Settings(Options(num_inference_steps=4, seed=5, batch_size=6))
    )
    np.testing.assert_array_equal(images.read("out/a.png").pixels, expected(PIXELS))
    assert [call["options"] for call in fake.calls] == [Options(num_inference_steps=4, seed=5, batch_size=6)]
    record = ImageRecord.from_json(Path("r.jsonl").read_text())
    assert record == outcome.report
    assert (record.input, record.output, record.status) == ("in/a.png", "out/a.png", "done")
    assert record.input_sha256 == hashlib.sha256(Path("in/a.png").read_bytes()).hexdigest()
    assert record.output_sha256 == hashlib.sha256(Path("out/a.png").read_bytes()).hexdigest()
    assert (record.width, record.height, record.faces, record.model) == (32, 24, (REPLACED, COVERED), "fake")
    assert record.versions == results.versions()
    assert record.error is None
    assert outcome.message is None


def test_alpha_is_kept():
    alpha = np.full((24, 32), 7, np.uint8)
    Image.fromarray(np.dstack([PIXELS, alpha])).save("a.png")
    run_batch(["a.png"], FakeAnonymizer())
    np.testing.assert_array_equal(images.read("out/a.png").alpha, alpha)


def test_face_in_transparency_is_refused():
    alpha = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32).astype(np.uint8)
    Image.fromarray(np.dstack([PIXELS, alpha])).save("a.png")
    fake = FakeAnonymizer(())
    fake.detector = lambda image: [Detection((4.0, 4.0, 20.0, 20.0), 0.9, "fake")]
    (outcome,) = run_batch(["a.png"], fake)
    assert "its transparency shows a face" in outcome.message
    assert not list(Path("out").iterdir())


def test_mark_of_generated_images():
    photos("a.png")
    for name, faces in {"replaced": (COVERED, REPLACED), "covered": (COVERED,), "none": ()}.items():
        run_batch(["a.png"], FakeAnonymizer(faces), out=name)
        assert (b"AlgorithmicMedia" in Path(name, "a.png").read_bytes()) == (name == "replaced")


def test_no_face():
    photos("a.png")
    (outcome,) = run_batch(["a.png"], FakeAnonymizer(()))
    assert outcome.report.status == "no_face"
    np.testing.assert_array_equal(images.read("out/a.png").pixels, PIXELS)
    (strict,) = run_batch(["a.png"], FakeAnonymizer(()), out="strict", settings=Settings(require_face=True))
    assert strict.report.status == "failed"
    assert strict.report.output is None
    assert "--require-face" in strict.message
    assert not list(Path("strict").iterdir())


def test_unreadable_photo_stops_only_itself():
    photos("a.png", "c.png")
    Path("b.jpg").write_text("this is a text")
    bad, *rest = run_batch(["b.jpg", "a.png", "none.png", "c.png"], FakeAnonymizer(), report_file="r.jsonl")
    assert [outcome.report.status for outcome in rest] == ["done", "failed", "done"]
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "c.png"]
    assert bad.message.startswith("b.jpg: is not a photo")
    assert bad.report.error == bad.message
    assert bad.report.model is None
    assert len(Path("r.jsonl").read_text().splitlines()) == 4


def test_unexpected_error_stops_only_its_photo():
    photos("a.png", "b.png")
    fake = FakeAnonymizer()

    def fail(image: np.ndarray) -> None:
        if len(fake.calls) == 1:
            raise RuntimeError("line one\nof /somewhere/private")

    fake.hook = fail
    first, second = run_batch(["a.png", "b.png"], fake)
    assert isinstance(first.unexpected, RuntimeError)
    assert "internal error: RuntimeError: line one of" in first.message
    assert first.report.error == "internal error: RuntimeError"
    assert second.report.status == "done"
    assert [path.name for path in Path("out").iterdir()] == ["b.png"]


def test_records_hold_no_absolute_path(tmp_path):
    photos("in/a.png")
    Path("in/b.png").write_bytes(b"")
    Path("in/c.png").symlink_to("nowhere")
    run_batch([str(tmp_path / "in")], FakeAnonymizer(), out=str(tmp_path / "out"), report_file="r.jsonl")
    text = Path("r.jsonl").read_text()
    assert str(tmp_path) not in text
    assert [json.loads(line)["error"] for line in text.splitlines()] == [
        None,
        "in/b.png: is empty (0 bytes): get a complete copy",
        "in/c.png: no such file: check the name",
    ]


def test_errors_hold_no_absolute_path(tmp_path, monkeypatch):
    photos("in/a.png")
    store = tmp_path / "secret" / "people"

    options = Options(pseudonyms=SimpleNamespace(store=store))
    settings, out = Settings(options), str(tmp_path / "out")
    fake = FakeAnonymizer(hook=raising(DeidError(f"{store}: is locked")))
    (outcome,) = run_batch([str(tmp_path / "in")], fake, out=out, settings=settings)
    assert (outcome.message, outcome.report.error) == (f"{store}: is locked", "people: is locked")
    monkeypatch.setattr("os.access", lambda *_: False)
    (outcome,) = run_batch([str(tmp_path / "in")], FakeAnonymizer(), out=out)
    assert outcome.report.error.startswith("out: writing there is not allowed")


def test_transparency_for_jpeg():
    Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]])).save("a.png")
    fake = FakeAnonymizer()
    (outcome,) = run_batch(["a.png"], fake, file_format="jpeg")
    assert "JPEG does not support" in outcome.message
    assert not fake.calls


def test_unwritable_output(monkeypatch):
    photos("in/deep/a.png")
    Path("out").mkdir()
    Path("out/deep").write_bytes(b"")
    fake = FakeAnonymizer()
    (outcome,) = run_batch(["in"], fake, recursive=True)
    assert "out/deep: is a file where a folder is needed" in outcome.message
    Path("out/deep").unlink()
    monkeypatch.setattr("os.access", lambda *_: False)
    (outcome,) = run_batch(["in"], fake, recursive=True)
    assert "out/deep: writing there is not allowed" in outcome.message
    assert not fake.calls


def test_in_place():
    photos("in/a.png", "in/b.jpg")
    Path("in/c.heic").write_bytes(b"heic")
    png, jpeg, heic = run_batch(["in"], FakeAnonymizer(), out=None, in_place=True)
    assert images.read("in/a.png").sha256 == png.report.output_sha256
    np.testing.assert_array_equal(images.read("in/a.png").pixels, expected(PIXELS))
    assert images.read("in/b.jpg").format == "JPEG"
    assert jpeg.report.output == "in/b.jpg"
    assert ".heic cannot be written" in heic.message
    assert Path("in/c.heic").read_bytes() == b"heic"
    assert len(list(Path("in").iterdir())) == 3


def test_interrupt_and_resume():
    photos("in/a.png", "in/b.png", "in/c.png")
    fake = FakeAnonymizer()

    def interrupt(image: np.ndarray) -> None:
        if len(fake.calls) == 2:
            raise KeyboardInterrupt

    fake.hook = interrupt
    with pytest.raises(KeyboardInterrupt):
        run_batch(["in"], fake, settings=Settings(Options(batch_size=1)))
    assert [path.name for path in Path("out").iterdir()] == ["a.png"]
    before = Path("out/a.png").stat().st_mtime_ns
    again = FakeAnonymizer()
    assert len(run_batch(["in"], again)) == 2
    assert len(again.calls) == 2
    assert Path("out/a.png").stat().st_mtime_ns == before


def test_failure_leaves_no_original():
    photos("in/a.png", "in/b.png")
    Path("out").mkdir()
    for name in ("a.png", "b.png"):
        Path("out", name).write_bytes(Path("in", name).read_bytes())

    with pytest.raises(KeyboardInterrupt):
        run_batch(["in"], FakeAnonymizer(hook=raising(KeyboardInterrupt)))
    assert not list(Path("out").iterdir())
    assert len(list(Path("in").iterdir())) == 2


def test_undeletable_original_stops_run(monkeypatch):
    photos("in/a.png")
    Path("out").mkdir()
    Path("out/a.png").write_bytes(Path("in/a.png").read_bytes())

    monkeypatch.setattr(Path, "unlink", raising(PermissionError(errno.EACCES, "Permission denied")))
    fake = FakeAnonymizer()
    with pytest.raises(ImageError, match="it is a copy of the photo, and cannot be removed"):
        run_batch(["in"], fake)
    assert not fake.calls


full_disk = raising(OSError(errno.ENOSPC, "No space left on device"))


def test_full_disk(monkeypatch):
    photos("a.png")
    monkeypatch.setattr("os.fsync", full_disk)
    (outcome,) = run_batch(["a.png"], FakeAnonymizer())
    assert outcome.message == "out/a.png: the disk is full: free some space and run the command again"
    assert not list(Path("out").iterdir())


def test_unrecorded_result_is_withdrawn(monkeypatch):
    photos("a.png")
    monkeypatch.setattr(results, "append", full_disk)
    with pytest.raises(OSError, match="No space"):
        run_batch(["a.png"], FakeAnonymizer(), report_file="r.jsonl")
    assert not list(Path("out").iterdir())


def test_model_is_loaded_once():
    photos("a.png", "c.png")
    Path("b.jpg").write_bytes(b"")
    loads: list[FakeAnonymizer] = []

    def load() -> FakeAnonymizer:
        loads.append(FakeAnonymizer())
        return loads[-1]

    list(run(make_plan([Path("b.jpg")], Path("out")), load, Settings()))
    assert not loads
    list(run(make_plan([Path("a.png"), Path("c.png")], Path("out")), load, Settings()))
    assert len(loads) == 1

    with pytest.raises(DeidError, match="no such model"):
        list(run(make_plan([Path("a.png")], Path("other")), raising(DeidError("no such model")), Settings()))


def test_exit_codes():
    def outcome(status: str, *faces: results.FaceRecord, unexpected: Exception | None = None) -> JobResult:
        return JobResult(ImageRecord("a", None, status, faces=faces), unexpected=unexpected)

    done, covered = outcome("done", REPLACED), outcome("done", REPLACED, COVERED)
    failed, internal = outcome("failed"), outcome("failed", unexpected=RuntimeError())
    for outcomes, code in [
        ([], 0), ([done, outcome("no_face")], 0), ([covered, done], 3), ([covered, failed], 2), ([internal, failed], 1),
    ]:  # fmt: skip
        tally = RunStats()
        for result in outcomes:
            tally = tally.add(result)
        assert tally.exit_code == code
        assert tally.photos == len(outcomes)
    assert RunStats().add(covered) == RunStats(done=1, replaced=1, covered=1)
