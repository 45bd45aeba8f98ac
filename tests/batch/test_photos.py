"""Photos of a run: prefetching, shared batches, results, records and failures."""

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

pytestmark = pytest.mark.usefixtures("workdir")


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
def folder(astronaut: np.ndarray, workdir: Path) -> Path:
    """A folder with five photos in `in`."""
    for k in range(5):
        Image.fromarray(np.roll(astronaut, k, axis=2)).save(workdir / "in" / f"{k}.png", compress_level=1)
    return workdir


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
FULL_DISK = raising(OSError(errno.ENOSPC, "No space left on device"))


def photos(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS).save(name)


def run_batch(
    *inputs: str | Path, fake: FakeAnonymizer | None = None, out: str | Path | None = "out",
    settings: Settings | None = None, **options: object,
) -> list[JobResult]:  # fmt: skip
    """Process photos; the report is r.jsonl."""
    plan = make_plan([Path(name) for name in inputs], Path(out) if out else None, **options)
    return list(run(plan, lambda: fake or FakeAnonymizer(), settings or Settings(), Path("r.jsonl")))


def written(folder: str = "out") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_photo_is_written_and_recorded():
    photos("in/a.png")
    fake, options = FakeAnonymizer((REPLACED, COVERED)), Options(num_inference_steps=4, seed=5, batch_size=6)
    (outcome,) = run_batch("in", fake=fake, settings=Settings(options))
    np.testing.assert_array_equal(images.read("out/a.png").pixels, expected(PIXELS))
    assert [call["options"] for call in fake.calls] == [options]
    record = ImageRecord.from_json(Path("r.jsonl").read_text())
    assert record == outcome.report
    assert (record.input, record.output, record.status) == ("in/a.png", "out/a.png", "done")
    assert record.input_sha256 == hashlib.sha256(Path("in/a.png").read_bytes()).hexdigest()
    assert record.output_sha256 == hashlib.sha256(Path("out/a.png").read_bytes()).hexdigest()
    assert (record.width, record.height, record.faces, record.model) == (32, 24, (REPLACED, COVERED), "fake")
    assert record.versions == results.versions()
    assert record.error is outcome.message is None


def test_alpha():
    """It is kept, unless it shows a face, or the format has none."""
    alpha = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32).astype(np.uint8)
    Image.fromarray(np.dstack([PIXELS, alpha])).save("a.png")
    run_batch("a.png")
    np.testing.assert_array_equal(images.read("out/a.png").alpha, alpha)
    fake = FakeAnonymizer()
    (outcome,) = run_batch("a.png", fake=fake, out="jpeg", file_format="jpeg")
    assert "JPEG does not support" in outcome.message
    assert not fake.calls
    fake = FakeAnonymizer(())
    fake.detector = lambda image: [Detection((4.0, 4.0, 20.0, 20.0), 0.9, "fake")]
    (outcome,) = run_batch("a.png", fake=fake, out="face")
    assert "its transparency shows a face" in outcome.message
    assert written("face") == []


def test_mark_of_generated_images():
    photos("a.png")
    for name, faces in {"replaced": (COVERED, REPLACED), "covered": (COVERED,), "none": ()}.items():
        run_batch("a.png", fake=FakeAnonymizer(faces), out=name)
        assert (b"AlgorithmicMedia" in Path(name, "a.png").read_bytes()) == (name == "replaced")


def test_no_face():
    photos("a.png")
    (outcome,) = run_batch("a.png", fake=FakeAnonymizer(()))
    assert outcome.report.status == "no_face"
    np.testing.assert_array_equal(images.read("out/a.png").pixels, PIXELS)
    (outcome,) = run_batch("a.png", fake=FakeAnonymizer(()), out="strict", settings=Settings(require_face=True))
    assert (outcome.report.status, outcome.report.output) == ("failed", None)
    assert "--require-face" in outcome.message
    assert written("strict") == []


def test_unreadable_photo_stops_only_itself():
    photos("a.png", "c.png")
    Path("b.jpg").write_text("this is a text")
    bad, *others = run_batch("b.jpg", "a.png", "none.png", "c.png")
    assert [outcome.report.status for outcome in others] == ["done", "failed", "done"]
    assert written() == ["a.png", "c.png"]
    assert bad.message.startswith("b.jpg: is not a photo")
    assert (bad.report.error, bad.report.model) == (bad.message, None)
    assert len(Path("r.jsonl").read_text().splitlines()) == 4


def fail_in_call(fake: FakeAnonymizer, number: int, error: BaseException) -> None:
    """Let a fake fail in one of its calls, counted from 1."""

    def fail(image: np.ndarray) -> None:
        if len(fake.calls) == number:
            raise error

    fake.hook = fail


def test_unexpected_error_stops_only_its_photo():
    photos("a.png", "b.png")
    fake = FakeAnonymizer()
    fail_in_call(fake, 1, RuntimeError("line one\nof /somewhere/private"))
    first, second = run_batch("a.png", "b.png", fake=fake)
    assert isinstance(first.unexpected, RuntimeError)
    assert "internal error: RuntimeError: line one of" in first.message
    assert first.report.error == "internal error: RuntimeError"
    assert second.report.status == "done"
    assert written() == ["b.png"]


def test_records_hold_no_absolute_path(tmp_path, monkeypatch):
    photos("in/a.png")
    Path("in/b.png").write_bytes(b"")
    Path("in/c.png").symlink_to("nowhere")
    run_batch(tmp_path / "in", out=tmp_path / "out")
    text = Path("r.jsonl").read_text()
    assert str(tmp_path) not in text
    assert [json.loads(line)["error"] for line in text.splitlines()] == [
        None,
        "in/b.png: is empty (0 bytes): get a complete copy",
        "in/c.png: no such file: check the name",
    ]
    store = tmp_path / "secret" / "people"
    fake = FakeAnonymizer(hook=raising(DeidError(f"{store}: is locked")))
    settings = Settings(Options(pseudonyms=SimpleNamespace(store=store)))
    (outcome,) = run_batch(tmp_path / "in/a.png", fake=fake, out=tmp_path / "other", settings=settings)
    assert (outcome.message, outcome.report.error) == (f"{store}: is locked", "people: is locked")
    monkeypatch.setattr("os.access", lambda *_: False)
    (outcome,) = run_batch(tmp_path / "in/a.png", out=tmp_path / "other")
    assert outcome.report.error.startswith("other: writing there is not allowed")


def test_unwritable_output(monkeypatch):
    photos("in/deep/a.png")
    Path("out").mkdir()
    Path("out/deep").write_bytes(b"")
    fake = FakeAnonymizer()
    (outcome,) = run_batch("in", fake=fake, recursive=True)
    assert "out/deep: is a file where a folder is needed" in outcome.message
    Path("out/deep").unlink()
    monkeypatch.setattr("os.access", lambda *_: False)
    (outcome,) = run_batch("in", fake=fake, recursive=True)
    assert "out/deep: writing there is not allowed" in outcome.message
    assert not fake.calls


def test_in_place():
    photos("in/a.png", "in/b.jpg")
    Path("in/c.heic").write_bytes(b"heic")
    png, jpeg, heic = run_batch("in", out=None, in_place=True)
    assert images.read("in/a.png").sha256 == png.report.output_sha256
    np.testing.assert_array_equal(images.read("in/a.png").pixels, expected(PIXELS))
    assert images.read("in/b.jpg").format == "JPEG"
    assert jpeg.report.output == "in/b.jpg"
    assert ".heic cannot be written" in heic.message
    assert Path("in/c.heic").read_bytes() == b"heic"
    assert written("in") == ["a.png", "b.jpg", "c.heic"]


def test_interrupt_and_resume():
    photos("in/a.png", "in/b.png", "in/c.png")
    fake = FakeAnonymizer()
    fail_in_call(fake, 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_batch("in", fake=fake, settings=Settings(Options(batch_size=1)))
    assert written() == ["a.png"]
    before, fake = Path("out/a.png").stat().st_mtime_ns, FakeAnonymizer()
    assert len(run_batch("in", fake=fake)) == len(fake.calls) == 2
    assert Path("out/a.png").stat().st_mtime_ns == before


@pytest.fixture
def copies():
    """Photos that lie in the output folder, too."""
    photos("in/a.png", "in/b.png", "out/a.png", "out/b.png")


def test_failure_leaves_no_original(copies):
    with pytest.raises(KeyboardInterrupt):
        run_batch("in", fake=FakeAnonymizer(hook=raising(KeyboardInterrupt)))
    assert written() == []
    assert len(written("in")) == 2


def test_undeletable_original_stops_run(copies, monkeypatch):
    monkeypatch.setattr(Path, "unlink", raising(PermissionError(errno.EACCES, "Permission denied")))
    fake = FakeAnonymizer()
    with pytest.raises(ImageError, match="it is a copy of the photo, and cannot be removed"):
        run_batch("in", fake=fake)
    assert not fake.calls


def test_unrecorded_result_is_withdrawn(monkeypatch):
    photos("a.png")
    monkeypatch.setattr(results, "append", FULL_DISK)
    with pytest.raises(OSError, match="No space"):
        run_batch("a.png")
    assert written() == []


def test_full_disk(monkeypatch):
    photos("a.png")
    monkeypatch.setattr("deid_diffusion.io.files.os.fsync", FULL_DISK)
    monkeypatch.setattr(results, "append", lambda *_: None)
    (outcome,) = run_batch("a.png")
    assert outcome.message == "out/a.png: the disk is full: free some space and run the command again"
    assert written() == []


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


def result_of(status: str, *faces: results.FaceRecord, unexpected: Exception | None = None) -> JobResult:
    return JobResult(ImageRecord("a", None, status, faces=faces), unexpected=unexpected)


DONE, PARTLY_COVERED = result_of("done", REPLACED), result_of("done", REPLACED, COVERED)
FAILED, INTERNAL = result_of("failed"), result_of("failed", unexpected=RuntimeError())


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([], 0), ([DONE, result_of("no_face")], 0), ([PARTLY_COVERED, DONE], 3), ([PARTLY_COVERED, FAILED], 2),
        ([INTERNAL, FAILED], 1),
    ],
)  # fmt: skip
def test_exit_codes(outcomes, code):
    stats = RunStats()
    for outcome in outcomes:
        stats = stats.add(outcome)
    assert (stats.exit_code, stats.photos) == (code, len(outcomes))
    assert RunStats().add(PARTLY_COVERED) == RunStats(done=1, replaced=1, covered=1)
