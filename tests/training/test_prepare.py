import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from deid_diffusion.errors import DeidError, UsageError
from deid_diffusion.faces.landmarks import FaceMesh
from deid_diffusion.training import prepare as module
from deid_diffusion.training.data import FaceCache
from deid_diffusion.training.prepare import Prepared, face_crops, prepare

FILES = ("crops.npy", "meshes.npy", "rows.jsonl", "skipped.jsonl", "prepared.json")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Path:
    """Six usable photographs in two folders, one of them grey, and three that are not usable."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "b").mkdir()
    face = astronaut[:300, 70:370]
    grey = np.repeat(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    faces = {"1": face, "b/1": face[:, ::-1], "2": face[20:], "b/2": face[:, 30:], "3": face[:280, :280], "grey": grey}
    for name, pixels in {**faces, "no_face": np.full((64, 64, 3), 90, np.uint8)}.items():
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{name}.jpg")
    (folder / "b" / "cut.jpg").write_bytes((folder / "1.jpg").read_bytes()[:9000])
    (folder / "b" / "text.jpg").write_text("this is a text")
    (folder / "metadata.csv").write_text("file_name,text,grey\n1.jpg,a woman,no\nb/1.jpg,the same woman,no\n")
    return folder


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of an uninterrupted run."""
    cache = tmp_path_factory.mktemp("finished") / "cache"
    assert prepare([photos], cache, size=48) == Prepared(crops=16, photographs=9, broken=2, faceless=1)
    return cache


@pytest.fixture
def small_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMIT_EVERY", 2)


@pytest.fixture
def copied(photos: Path, tmp_path: Path) -> Path:
    """A copy of the photographs that a test may change."""
    return shutil.copytree(photos, tmp_path / "in")


@pytest.fixture
def no_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops of the photograph with noise in place of faces; none of a flat one."""

    def noisy(image: np.ndarray, landmarker: FaceMesh, *, size: int, variants: int, rng: np.random.Generator):
        count = variants if image.std() > 1 else 0
        crops = [cv2.resize(image, (size, size)) ^ rng.integers(0, 8, (size, size, 3), np.uint8) for _ in range(count)]
        return crops, list(rng.normal(0, 1, (count, 478, 2)).astype(np.float32))

    monkeypatch.setattr(module, "face_crops", noisy)


def prepare_until(count: int, source: Path, cache: Path, size: int = 32) -> None:
    """Interrupt a run after `count` photographs."""

    def progress(done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([source], cache, size=size, progress=progress)


def content(cache: Path) -> dict[str, bytes]:
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def test_cache(finished: Path, photos: Path) -> None:
    cache = FaceCache(finished)
    assert isinstance(cache.crops, np.memmap)
    assert (cache.crops.dtype, cache.crops.shape) == (np.uint8, (16, 48, 48, 3))
    assert (cache.meshes.dtype, cache.meshes.shape) == (np.float32, (16, 478, 2))
    names = ["1.jpg", "2.jpg", "3.jpg", "grey.jpg", "b/1.jpg", "b/2.jpg"]
    assert [row["file"] for row in cache.rows] == [name for name in names for _ in range(1 if "grey" in name else 3)]
    assert cache.rows[0] == {"file": "1.jpg", "grey": False, "text": "a woman"}
    assert cache.rows[9] == {"file": "grey.jpg", "grey": True}
    assert cache.rows[10]["text"] == "the same woman"
    assert 4 < cache.meshes.min() < cache.meshes.max() < 44
    plain, mirrored, jittered = (cache.crops[k].astype(float) for k in range(3))
    assert np.abs(plain - mirrored[:, ::-1]).mean() < np.abs(plain - mirrored).mean()
    assert 1 < np.abs(plain - jittered).mean() < 80
    assert sorted(content(finished)) == sorted(FILES)
    skipped = [json.loads(line) for line in (finished / "skipped.jsonl").read_text().splitlines()]
    reasons = {"no_face.jpg": "no face found", "b/cut.jpg": "is truncated", "b/text.jpg": "is not a photo"}
    assert [(row["source"], row["file"]) for row in skipped] == [(str(photos), name) for name in reasons]
    assert all(row["reason"].startswith(reasons[row["file"]]) for row in skipped)


@pytest.mark.usefixtures("small_commits")
def test_resume_after_kill(finished: Path, photos: Path, tmp_path: Path) -> None:
    prepare_until(5, photos, tmp_path, 48)
    with pytest.raises(FileNotFoundError):
        FaceCache(tmp_path)
    counts: list[tuple[int, int]] = []
    assert prepare([photos], tmp_path, size=48, progress=lambda *args: counts.append(args)) == Prepared(16, 9, 2, 1)
    assert counts == [(done, 9) for done in range(4, 10)]
    assert content(tmp_path) == content(finished)


@pytest.mark.usefixtures("small_commits", "no_mesh")
def test_resume_after_kill_at_any_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "in"
    photos.mkdir()
    for name in "ab":
        Image.linear_gradient("L").resize((8, 8)).save(photos / f"{name}.png")
    (photos / "text.jpg").write_text("this is a text")
    monkeypatch.setattr(os, "fsync", lambda number: None)
    assert prepare([photos], tmp_path / "finished", size=32) == Prepared(6, 3, 1, 0)
    left = 0

    def counted(write: Callable[..., object]) -> Callable[..., object]:
        def killed(*args: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return write(*args, **options)

        return killed

    for owner, name in ((os, "fsync"), (shutil, "rmtree"), (Path, "replace"), (Path, "mkdir"), (Path, "open")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    for kills in range(1000):
        cache, left = tmp_path / str(kills), kills
        with contextlib.suppress(KeyboardInterrupt):
            prepare([photos], cache, size=32)
        is_killed, left = left < 0, 1000
        was_complete = (cache / "crops.npy").exists()
        assert prepare([photos], cache, size=32).was_complete == was_complete
        assert content(cache) == content(tmp_path / "finished"), kills
        if not is_killed:
            break
    assert kills > 25


def test_finished_cache_untouched(finished: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    monkeypatch.setattr(module, "Photographs", None)
    assert prepare([f"{photos}/"], finished, size=48) == Prepared(16, 9, 2, 1, was_complete=True)
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 64}, "with resolution 48, not 64"),
        ({"variants": 2}, "with variants 3, not 2"),
        ({"seed": 1}, "with seed 0, not 1"),
        ({"data": ["a", "b.tar"]}, "with data .*not a b.tar"),
        ({"manifest": Path("list.csv")}, "with manifest none, not list.csv"),
        ({"caption_column": "title"}, "with caption_column none, not title"),
    ],
)
def test_other_arguments_refused(finished: Path, photos: Path, change: dict, words: str) -> None:
    before = content(finished)
    with pytest.raises(UsageError, match=f"was begun {words}") as caught:
        prepare(**{"data": [photos], "cache": finished, "size": 48, **change})
    assert str(caught.value).startswith(f"{finished}: ")
    assert content(finished) == before


@pytest.mark.usefixtures("no_mesh")
@pytest.mark.parametrize("change", ["photograph", "caption"])
def test_changed_photographs_refused(copied: Path, tmp_path: Path, change: str) -> None:
    prepare_until(9, copied, tmp_path / "out")
    if change == "photograph":
        shutil.copy(copied / "1.jpg", copied / "0.jpg")
    else:
        (copied / "metadata.csv").write_text("file_name,text\n1.jpg,another\n")
    with pytest.raises(UsageError, match="out: was begun with photographs or columns that have changed since"):
        prepare([copied], tmp_path / "out", size=32)


@pytest.mark.usefixtures("no_mesh")
@pytest.mark.parametrize("change", ["added", "removed"])
def test_photographs_changed_while_read(copied: Path, tmp_path: Path, change: str) -> None:
    def interfere(done: int, total: int) -> None:
        if done == 1 and change == "added":
            shutil.copy(copied / "1.jpg", copied / "b/0.jpg")
        elif done == 1:
            for name in ("1", "2"):
                (copied / f"b/{name}.jpg").unlink(missing_ok=True)

    for words in ("photographs changed while they were read", "photographs or columns that have changed since"):
        with pytest.raises(UsageError, match=words):
            prepare([copied], tmp_path / "out", size=32, progress=interfere)
    assert not (tmp_path / "out" / "crops.npy").exists()


@pytest.mark.usefixtures("no_mesh", "small_commits")
def test_lost_files(photos: Path, tmp_path: Path) -> None:
    prepare_until(5, photos, tmp_path)
    (crops,) = tmp_path.glob("*/crops.npy")
    os.truncate(crops, 1000)
    with pytest.raises(DeidError, match=r"crops\.npy: is shorter than prepared\.json says: delete the cache"):
        prepare([photos], tmp_path, size=32)
    shutil.rmtree(crops.parent)
    counts: list[int] = []
    prepare([photos], tmp_path, size=32, progress=lambda done, total: counts.append(done))
    assert counts[0] == 0
    (tmp_path / "crops.npy").unlink()
    assert not prepare([photos], tmp_path, size=32).was_complete
    assert (tmp_path / "crops.npy").exists()


def test_unusable_arguments(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in ({"size": 0}, {"variants": 0}, {"seed": -1}):
        with pytest.raises(UsageError, match=r"^\w+: -?\d, expected \d or more"):
            prepare(**{"data": [photos], "cache": tmp_path, "size": 48, **number})
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(UsageError, match=r"holds a cache without prepared\.json: choose another folder"):
        prepare([photos], tmp_path, size=48)
    with pytest.raises(DeidError, match="is a file where a folder is needed"):
        prepare([photos], tmp_path / "rows.jsonl", size=48)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DeidError, match="the disk is full: free some space and run the command again"):
        prepare([photos], tmp_path / "cache", size=48)


def test_no_usable_photograph(photos: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    with pytest.raises(UsageError, match="in: no photograph found"):
        prepare([folder], out, size=48)
    assert not out.exists()
    for name in ("no_face.jpg", "b/text.jpg"):
        shutil.copy(photos / name, folder)
    Image.new("RGB", (2000, 1)).save(folder / "thin.png")
    with pytest.raises(DeidError, match="none of the 3 photographs can be used: 1 broken, 2 without a face"):
        prepare([folder], out, size=48)
    assert [path.name for path in out.iterdir()] == ["skipped.jsonl"]
    shutil.copy(photos / "1.jpg", folder)
    assert prepare([folder], out, size=48).crops == 3


def test_largest_face(astronaut: np.ndarray) -> None:
    alone, landmarker = np.full((448, 448, 3), 90, np.uint8), FaceMesh()
    alone[:240, :240] = astronaut[40:280, 140:380]
    both = alone.copy()  # with a smaller face nearer to the middle
    both[210:370, 250:410] = cv2.resize(astronaut[20:300, 80:360], (160, 160), interpolation=cv2.INTER_AREA)
    assert len(landmarker.meshes(both)) == 2
    options = {"size": 48, "variants": 2}
    (_, meshes), (_, expected) = (
        face_crops(image, landmarker, rng=np.random.default_rng(0), **options) for image in (both, alone)
    )
    np.testing.assert_allclose(meshes, expected, atol=2)
