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
    """Six usable photographs in two folders, one of them grey, and three that are not."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "b").mkdir()
    face = astronaut[:300, 70:370]
    grey = np.repeat(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    pictures = {
        "1": face,
        "b/1": face[:, ::-1],
        "2": face[20:],
        "b/2": face[:, 30:],
        "3": face[:280, :280],
        "grey": grey,
    }
    for name, pixels in {**pictures, "no_face": np.full((64, 64, 3), 90, np.uint8)}.items():
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{name}.jpg")
    (folder / "b" / "cut.jpg").write_bytes((folder / "1.jpg").read_bytes()[:9000])
    (folder / "b" / "text.jpg").write_text("this is a text")
    (folder / "metadata.csv").write_text("file_name,text,grey\n1.jpg,a woman,no\nb/1.jpg,the same woman,no\n")
    return folder


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of an uninterrupted run."""
    cache = tmp_path_factory.mktemp("whole") / "cache"
    assert prepare([photos], cache, size=48) == Prepared(crops=16, photographs=9, broken=2, faceless=1)
    return cache


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART_PHOTOGRAPHS", 2)


@pytest.fixture
def no_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of faces, the photograph with noise on it; what is flat has none."""

    def noisy(image: np.ndarray, landmarker: FaceMesh, *, size: int, variants: int, rng: np.random.Generator):
        count = variants if image.std() > 1 else 0
        crops = [cv2.resize(image, (size, size)) ^ rng.integers(0, 8, (size, size, 3), np.uint8) for _ in range(count)]
        return crops, list(rng.normal(0, 1, (count, 478, 2)).astype(np.float32))

    monkeypatch.setattr(module, "face_crops", noisy)


def content(cache: Path) -> dict[str, bytes]:
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def test_the_cache(whole: Path, photos: Path, astronaut: np.ndarray) -> None:
    cache = FaceCache(whole)
    assert cache.crops.shape == (16, 48, 48, 3)
    assert isinstance(cache.crops, np.memmap)
    assert (cache.crops.dtype, cache.meshes.dtype, cache.meshes.shape) == (np.uint8, np.float32, (16, 478, 2))
    names = ["1.jpg", "2.jpg", "3.jpg", "grey.jpg", "b/1.jpg", "b/2.jpg"]
    assert [row["file"] for row in cache.rows] == [name for name in names for _ in range(1 if "grey" in name else 3)]
    assert cache.rows[0] == {"file": "1.jpg", "grey": False, "text": "a woman"}
    assert cache.rows[9] == {"file": "grey.jpg", "grey": True}
    assert cache.rows[10]["text"] == "the same woman"
    assert cache.meshes.min() > 4
    assert cache.meshes.max() < 44
    plain, mirrored, other = (cache.crops[k].astype(float) for k in range(3))
    assert np.abs(plain - mirrored[:, ::-1]).mean() < np.abs(plain - mirrored).mean()
    assert 1 < np.abs(plain - other).mean() < 80
    assert sorted(content(whole)) == sorted(FILES)
    skipped = [json.loads(line) for line in (whole / "skipped.jsonl").read_text().splitlines()]
    assert [(one["source"], one["file"]) for one in skipped] == [
        (str(photos), name) for name in ("no_face.jpg", "b/cut.jpg", "b/text.jpg")
    ]
    assert skipped[0]["reason"] == "no face found"
    assert skipped[1]["reason"].startswith("is truncated or damaged")
    assert skipped[2]["reason"].startswith("is not a photo")


def test_progress(photos: Path, tmp_path: Path) -> None:
    seen = []
    prepare([photos], tmp_path, size=48, variants=1, progress=lambda *counts: seen.append(counts))
    assert seen == [(done, 9) for done in range(10)]


@pytest.mark.usefixtures("small_parts")
def test_a_killed_run_goes_on_where_it_was(
    whole: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([photos], tmp_path, size=48, progress=kill)
    with pytest.raises(FileNotFoundError):
        FaceCache(tmp_path)
    looked_at, look_at = [], module._look_at
    monkeypatch.setattr(module, "_look_at", lambda one, *rest: looked_at.append(one.name) or look_at(one, *rest))
    assert prepare([photos], tmp_path, size=48) == Prepared(16, 9, 2, 1)
    assert looked_at == ["no_face.jpg", "b/1.jpg", "b/2.jpg", "b/cut.jpg", "b/text.jpg"]
    assert content(tmp_path) == content(whole)


@pytest.mark.usefixtures("small_parts", "no_mesh")
def test_killed_at_any_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "in"
    photos.mkdir()
    for name in "ab":
        Image.linear_gradient("L").resize((8, 8)).save(photos / f"{name}.png")
    (photos / "text.jpg").write_text("this is a text")
    monkeypatch.setattr(os, "fsync", lambda number: None)
    assert prepare([photos], tmp_path / "whole", size=32) == Prepared(6, 3, 1, 0)
    left = 0

    def counted(write: Callable[..., object]) -> Callable[..., object]:
        def killed(*args: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return write(*args, **options)

        return killed

    for place, name in ((os, "fsync"), (shutil, "rmtree"), (Path, "rename"), (Path, "replace"), (Path, "mkdir")):
        monkeypatch.setattr(place, name, counted(getattr(place, name)))
    for kills in range(1000):
        cache, left = tmp_path / str(kills), kills
        with contextlib.suppress(KeyboardInterrupt):
            prepare([photos], cache, size=32)
        killed, left = left < 0, 1000
        whole = (cache / "crops.npy").exists()
        assert prepare([photos], cache, size=32).was_complete == whole
        assert content(cache) == content(tmp_path / "whole"), kills
        if not killed:
            break
    assert kills > 25


def test_a_complete_cache_is_left_alone(whole: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    monkeypatch.setattr(module, "Photographs", None)
    assert prepare([f"{photos}/"], whole, size=48) == Prepared(16, 9, 2, 1, was_complete=True)
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 64}, "with resolution 48, not 64"),
        ({"variants": 2}, "with variants 3, not 2"),
        ({"seed": 1}, "with seed 0, not 1"),
        ({"data": ["a", "b.tar"]}, "not a b.tar"),
        ({"manifest": Path("list.csv")}, "with manifest none, not list.csv"),
        ({"caption_column": "title"}, "with caption_column none, not title"),
    ],
)
def test_other_arguments_are_refused(whole: Path, photos: Path, change: dict, words: str) -> None:
    before = content(whole)
    with pytest.raises(UsageError, match=f"was begun {words}|was begun with data .*{words}") as caught:
        prepare(**{"data": [photos], "cache": whole, "size": 48, **change})
    assert str(caught.value).startswith(f"{whole}: ")
    assert content(whole) == before


@pytest.mark.usefixtures("no_mesh")
@pytest.mark.parametrize("change", ["another photograph", "another caption"])
def test_a_cache_is_not_continued_with_other_photographs(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    shutil.copytree(photos, tmp_path / "in")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_finish", lambda *_: None)
        prepare([tmp_path / "in"], tmp_path / "out", size=32)
    if change == "another photograph":
        shutil.copy(photos / "1.jpg", tmp_path / "in" / "0.jpg")
    else:
        (tmp_path / "in" / "metadata.csv").write_text("file_name,text\n1.jpg,another\n")
    with pytest.raises(UsageError, match="out: was begun with photographs or columns that have changed since"):
        prepare([tmp_path / "in"], tmp_path / "out", size=32)


@pytest.mark.usefixtures("no_mesh")
@pytest.mark.parametrize("change", ["added", "removed"])
def test_photographs_that_change_meanwhile(photos: Path, tmp_path: Path, change: str) -> None:
    shutil.copytree(photos, tmp_path / "in")

    def interfere(done: int, total: int) -> None:
        if done == 1:
            shutil.copy(photos / "1.jpg", tmp_path / "in/b/0.jpg")
        if done == 1 and change == "removed":
            for name in ("0", "1", "2"):
                (tmp_path / f"in/b/{name}.jpg").unlink()

    for words in ("photographs changed while they were read", "photographs or columns that have changed since"):
        with pytest.raises(UsageError, match=words):
            prepare([tmp_path / "in"], tmp_path / "out", size=32, progress=interfere)
    assert not (tmp_path / "out" / "crops.npy").exists()


@pytest.mark.parametrize("wrong", [{"size": 0}, {"variants": 0}, {"seed": -1}])
def test_numbers_out_of_range(photos: Path, tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(UsageError, match=r"^\w+: -?\d, expected \d or more"):
        prepare(**{"data": [photos], "cache": tmp_path, "size": 48, **wrong})


def test_other_folders_are_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(UsageError, match=r"holds a cache without prepared\.json: choose another folder"):
        prepare([photos], tmp_path, size=48)
    with pytest.raises(DeidError, match="is a file where a folder is needed"):
        prepare([photos], tmp_path / "rows.jsonl", size=48)


def test_nothing_usable(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UsageError, match="in: no photograph found"):
        prepare([tmp_path / "in"], tmp_path / "out", size=48)
    assert not (tmp_path / "out").exists()
    for name in ("no_face.jpg", "b/text.jpg"):
        shutil.copy(photos / name, tmp_path / "in")
    Image.new("RGB", (2000, 1)).save(tmp_path / "in" / "thin.png")
    with pytest.raises(DeidError, match="none of the 3 photographs can be used: 1 broken, 2 without a face"):
        prepare([tmp_path / "in"], tmp_path / "out", size=48)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["skipped.jsonl"]
    shutil.copy(photos / "1.jpg", tmp_path / "in")
    assert prepare([tmp_path / "in"], tmp_path / "out", size=48).crops == 3


def test_a_full_disk_is_one_line(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DeidError, match="the disk is full: free some space and run the command again"):
        prepare([photos], tmp_path, size=48)


def test_the_largest_of_several_faces(astronaut: np.ndarray) -> None:
    alone = np.full((448, 448, 3), 90, np.uint8)
    alone[:240, :240] = astronaut[40:280, 140:380]
    both = alone.copy()
    small = cv2.resize(astronaut[20:300, 80:360], (160, 160), interpolation=cv2.INTER_AREA)
    both[210:370, 250:410] = small  # nearer to the middle
    landmarker = FaceMesh()
    assert len(landmarker.meshes(both)) == 2
    found, expected = (
        face_crops(picture, landmarker, size=48, variants=2, rng=np.random.default_rng(0))[1]
        for picture in (both, alone)
    )
    np.testing.assert_allclose(found, expected, atol=2)
