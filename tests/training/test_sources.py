import io
import json
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import piexif
import pytest
from PIL import Image

from deid_diffusion.errors import ImageError, UsageError
from deid_diffusion.training.sources import Photographs


def picture(red: int = 0) -> bytes:
    """Return a PNG of one colour, 6 x 4 pixels."""
    return cv2.imencode(".png", np.full((4, 6, 3), (0, 0, red), np.uint8))[1].tobytes()


def write(folder: Path, **files: bytes) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def pack(path: Path, mode: str = "w", **files: bytes) -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def columns(photographs: Photographs) -> dict[str, dict[str, str]]:
    return {photograph.name: dict(photograph.columns) for photograph in photographs}


def reds(photographs: Photographs) -> list[int]:
    return [int(photograph.read()[0, 0, 0]) for photograph in photographs]


def test_folder_order(tmp_path: Path) -> None:
    files = {"b.png": picture(2), "a/c.JPG": picture(3), "a/b.png": picture(4), "notes.txt": b"", ".b.png": b""}
    photographs = Photographs([write(tmp_path, **files, **{"a/.thumbs/x.png": b""})])
    for _ in range(2):
        assert columns(photographs) == {"b.png": {}, "a/b.png": {}, "a/c.JPG": {}}
        assert reds(photographs) == [2, 4, 3]
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=piexif.dump({"0th": {piexif.ImageIFD.Orientation: 6}}))
    assert next(iter(Photographs([tmp_path]))).read().shape == (6, 4, 3)


def test_damaged_photographs(tmp_path: Path, astronaut: np.ndarray) -> None:
    jpeg = cv2.imencode(".jpg", astronaut)[1].tobytes()
    files = {"cut.jpg": jpeg[:9000], "empty.png": b"", "text.jpg": b"this is a text"}
    for source in (write(tmp_path / "in", **files), pack(tmp_path / "in.tar", **files)):
        reasons = ("truncated", "is empty", "is not a photo")
        for photograph, reason in zip(Photographs([source]), reasons, strict=True):
            with pytest.raises(ImageError, match=reason) as caught:
                photograph.read()
            assert str(caught.value).startswith(f"{source}/{photograph.name}: ")


def test_imagefolder_metadata(tmp_path: Path) -> None:
    table = '\ufefffile_name,text,age\na.png,"a man, smiling",30\nsub/b.png,a woman,\nnone.png,nobody,1\n'
    lines = '{"file_name": "b.png", "text": "a girl", "age": 9, "tags": ["x"], "id": null}\n\n'
    files = {"metadata.csv": table.encode(), "a.png": picture(), "sub/b.png": picture(), "sub/c.png": picture()}
    assert columns(Photographs([write(tmp_path, **files)])) == {
        "a.png": {"text": "a man, smiling", "age": "30"},
        "sub/b.png": {"text": "a woman", "age": ""},
        "sub/c.png": {},
    }
    write(tmp_path, **{"sub/metadata.jsonl": lines.encode()})
    assert columns(Photographs([tmp_path]))["sub/b.png"] == {"text": "a girl", "age": "9"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metadata.csv", b"name,text\na.png,x\n", r"row 1 has no column 'file_name' \(it has name, text\)"),
        ("metadata.jsonl", b'{"file_name": "a.png"}\n[1]\n', "row 2 has no column"),
        ("metadata.jsonl", b"{file_name}\n", "cannot be read as a table"),
        ("metadata.csv", b"file_name\n\xff\xfe\n", "cannot be read as a table"),
    ],
)
def test_damaged_metadata(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    write(tmp_path, **{name: content, "a.png": picture()})
    with pytest.raises(UsageError, match=words) as caught:
        list(Photographs([tmp_path]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tars_with_and_without_sidecars(tmp_path: Path, mode: str) -> None:
    files = {"a/1.png": picture(1), "b/1.png": picture(2), "./c.v2.png": picture(3)}
    photographs = Photographs([pack(tmp_path / "x.tar", mode, **files, **{"a/._1.png": b"", "all.json": b"[{"})])
    for _ in range(2):
        assert columns(photographs) == {"a/1.png": {}, "b/1.png": {}, "c.v2.png": {}}
        assert reds(photographs) == [1, 2, 3]
    row = json.dumps({"text": "not this", "age": 4, "nested": {"x": 1}}).encode()
    first = {"01.png": picture(1), "01.txt": b"a man\n", "01.json": row, "02.json": row, "02.png": picture(2)}
    second = {"x.txt": b"for both", "x.1.png": picture(3), "x.2.png": picture(4), "x.2.txt": b"for the second"}
    shards = [pack(tmp_path / "0.tar", mode, **first), pack(tmp_path / "1.tar", mode, **second)]
    photographs = Photographs(shards)
    assert columns(photographs) == {
        "01.png": {"text": "a man", "age": "4"},
        "02.png": {"text": "not this", "age": "4"},
        "x.1.png": {"text": "for both"},
        "x.2.png": {"text": "for the second"},
    }
    assert {photograph.source for photograph in photographs} == set(map(str, shards))
    assert reds(photographs) == [1, 2, 3, 4]


def test_damaged_tars(tmp_path: Path) -> None:
    plain = pack(tmp_path / "x.tar", **{"a.png": picture(), "b.png": bytes(9000)}).read_bytes()
    packed = pack(tmp_path / "x.tgz", "w:gz", **{"a.png": np.random.default_rng(0).bytes(9000)}).read_bytes()
    for content in (plain[:3000], packed[:5000], b"text", b""):
        (tmp_path / "y.tar").write_bytes(content)
        with pytest.raises(UsageError, match=r"y\.tar: is neither a folder nor a complete tar file"):
            list(Photographs([tmp_path / "y.tar"]))
    with pytest.raises(UsageError, match=r"z\.tar/1\.png: its \.json sidecar is damaged"):
        list(Photographs([pack(tmp_path / "z.tar", **{"1.png": picture(), "1.json": b"{"})]))


def test_manifest_and_caption_column(tmp_path: Path) -> None:
    table = b"file,text,age\n1.png,by its last part,1\na/1.png,by its path,2\n"
    write(tmp_path, **{"in/a/1.png": picture(), "in/b/1.png": picture(), "in/c.png": picture(), "list.csv": table})
    write(tmp_path / "in", **{"metadata.csv": b"file_name,text,title\nc.png,kept,A title\na/1.png,not this,\n"})
    manifest = tmp_path / "list.csv"
    assert columns(Photographs([tmp_path / "in"], manifest=manifest)) == {
        "c.png": {"text": "kept", "title": "A title"},
        "a/1.png": {"text": "by its path", "title": "", "age": "2"},
        "b/1.png": {"text": "by its last part", "age": "1"},
    }
    titled = columns(Photographs([tmp_path / "in"], manifest=manifest, caption_column="title"))
    assert (titled["c.png"], titled["b/1.png"]) == ({"text": "A title"}, {"age": "1"})
    assert columns(Photographs([tmp_path / "in"], caption_column="text"))["c.png"]["text"] == "kept"


def test_other_manifest_or_caption_column(tmp_path: Path) -> None:
    write(tmp_path, **{"in/a.png": picture(), "list.csv": b"file,text\n/elsewhere/b.png,x\n"})
    for options, message in (
        ({"manifest": tmp_path / "list.csv"}, r"manifest: .* names none of the photographs, such as a\.png"),
        ({"manifest": tmp_path / "none.csv"}, r"none\.csv: cannot be read"),
        ({"caption_column": "prompt"}, r"no photograph has a column prompt \(.*a\.png has none\)"),
    ):
        with pytest.raises(UsageError, match=message):
            list(Photographs([tmp_path / "in"], **options))


@pytest.mark.parametrize("name", ["/none", "./none", "a/b/c", "none.tar", "photo.jpg", "none.tar:train"])
def test_missing_files(name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name}: no such file or folder: check the name"):
        Photographs([name])


def test_datasets_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    saved = write(tmp_path / "saved", **{"state.json": b"{}"})
    for source, words in (("owner/name", "owner/name: no such file or folder, and "), (saved, "saved: ")):
        with pytest.raises(UsageError, match=f"{words}data sets need one more package: pip"):
            Photographs([source])


@pytest.fixture
def datasets():
    package = pytest.importorskip("datasets")
    package.disable_progress_bars()
    return package


def test_data_sets(datasets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, **{"on_disk.png": picture(3)})
    faces = [{"bytes": picture(1), "path": None}, None, {"bytes": None, "path": str(tmp_path / "on_disk.png")}]
    features = {"face": datasets.Image(), "age": datasets.Value("int32"), "title": datasets.Value("string")}
    values = {"face": faces, "age": [1, 2, 3], "title": ["x", "y", None]}
    rows = datasets.Dataset.from_dict(values, features=datasets.Features(features))
    rows.with_format("numpy").save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"test": rows, "train": rows.select([2])}).save_to_disk(tmp_path / "splits")
    requests = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: requests.append((name, split)) or rows)

    for source in (tmp_path / "saved", tmp_path / "splits" / "test", "owner/name", "name:test[:3]"):
        photographs = Photographs([source], caption_column="title")
        expected = [{"age": "1", "text": "x"}, {"age": "2", "text": "y"}, {"age": "3"}]
        assert columns(photographs) == {f"{k:08}": row for k, row in enumerate(expected)}
        first, second, third = photographs
        assert (first.read()[0, 0, 0], third.read()[0, 0, 0]) == (1, 3)
        with pytest.raises(ImageError, match="has no image"):
            second.read()
    assert requests == [("owner/name", "train"), ("name", "test[:3]")]
    assert columns(Photographs([tmp_path / "splits"])) == {"00000000": {"age": "3"}}
    rows.select_columns(["face"]).save_to_disk(tmp_path / "bare")
    assert columns(Photographs([tmp_path / "bare"])) == {f"{k:08}": {} for k in range(3)}
    rows.remove_columns(["face"]).save_to_disk(tmp_path / "text")
    with pytest.raises(UsageError, match=r"has no column of images \(its columns are age, title\)"):
        Photographs([tmp_path / "text"])


def test_unloadable_data_sets(datasets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, split: str) -> None:
        raise ConnectionError("two\nlines")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UsageError, match=r"^none: no such file or folder, and .* cannot load it \(two lines\)$"):
        Photographs(["none"])
    rows = datasets.Dataset.from_dict({"a": [1]})
    datasets.DatasetDict({"test": rows, "val": rows}).save_to_disk(tmp_path / "splits")
    with pytest.raises(UsageError, match="has no split train: name the folder of one of its splits, test, val"):
        Photographs([tmp_path / "splits"])
