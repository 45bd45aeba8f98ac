import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import piexif
import pytest
from PIL import Image

from deid_diffusion.errors import ImageError, UsageError
from deid_diffusion.training.sources import Photographs


def picture(red: int = 0, size: tuple[int, int] = (6, 4)) -> bytes:
    """A PNG of one colour, (width, height) pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


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
    return {one.name: dict(one.columns) for one in photographs}


def reds(photographs: Photographs) -> list[int]:
    return [int(one.read()[0, 0, 0]) for one in photographs]


def test_a_folder_is_searched_in_one_order(tmp_path: Path) -> None:
    files = {"b.png": picture(2), "a/c.JPG": picture(3), "a/b.png": picture(4), "notes.txt": b"", ".b.png": b""}
    found = Photographs([write(tmp_path, **files, **{"a/.thumbs/x.png": b""})])
    for _ in range(2):
        assert columns(found) == {"b.png": {}, "a/b.png": {}, "a/c.JPG": {}}
        assert reds(found) == [2, 4, 3]


def test_photographs_are_upright(tmp_path: Path) -> None:
    exif = piexif.dump({"0th": {piexif.ImageIFD.Orientation: 6}})
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert next(iter(Photographs([tmp_path]))).read().shape == (6, 4, 3)


def test_what_is_broken_says_so_when_it_is_read(tmp_path: Path, astronaut: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(astronaut).save(buffer, "JPEG")
    files = {"cut.jpg": buffer.getvalue()[:9000], "empty.png": b"", "text.jpg": b"this is a text"}
    for source in (write(tmp_path / "in", **files), pack(tmp_path / "in.tar", **files)):
        for one, words in zip(Photographs([source]), ("truncated", "is empty", "is not a photo"), strict=True):
            with pytest.raises(ImageError, match=words) as caught:
                one.read()
            assert str(caught.value).startswith(f"{source}/{one.name}: ")


def test_metadata_of_an_imagefolder(tmp_path: Path) -> None:
    table = '\ufefffile_name,text,age\na.png,"a man, smiling",30\nsub/b.png,a woman,\nnone.png,nobody,1\n'
    lines = '{"file_name": "b.png", "text": "a girl", "age": 9, "tags": ["x"], "id": null}\n\n'
    files = {"metadata.csv": table.encode(), "a.png": picture(), "sub/b.png": picture(), "sub/c.png": picture()}
    found = columns(Photographs([write(tmp_path, **files)]))
    assert found["a.png"] == {"text": "a man, smiling", "age": "30"}
    assert found["sub/b.png"] == {"text": "a woman", "age": ""}
    assert found["sub/c.png"] == {}
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
def test_a_bad_table_is_one_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    write(tmp_path, **{name: content, "a.png": picture()})
    with pytest.raises(UsageError, match=words) as caught:
        list(Photographs([tmp_path]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tars_without_sidecars(tmp_path: Path, mode: str) -> None:
    files = {
        "a/1.png": picture(1),
        "b/1.png": picture(2),
        "./c.v2.png": picture(3),
        "a/._1.png": b"",
        "all.json": b"[{",
    }
    found = Photographs([pack(tmp_path / "x.tar", mode, **files)])
    for _ in range(2):
        assert columns(found) == {"a/1.png": {}, "b/1.png": {}, "c.v2.png": {}}
        assert reds(found) == [1, 2, 3]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_webdataset_shards(tmp_path: Path, mode: str) -> None:
    said = json.dumps({"text": "not this", "age": 4, "nested": {"x": 1}}).encode()
    first = {"01.png": picture(1), "01.txt": b"a man\n", "01.json": said, "02.json": said, "02.png": picture(2)}
    second = {"x.txt": b"for both", "x.1.png": picture(3), "x.2.png": picture(4), "x.2.txt": b"for the second"}
    shards = [pack(tmp_path / "0.tar", mode, **first), pack(tmp_path / "1.tar", mode, **second)]
    found = Photographs(shards)
    assert [one.columns.get("text") for one in found] == ["a man", "not this", "for both", "for the second"]
    assert columns(found)["01.png"] == {"text": "a man", "age": "4"}
    assert {one.source for one in found} == set(map(str, shards))
    assert reds(found) == [1, 2, 3, 4]


def test_damaged_tars(tmp_path: Path) -> None:
    whole = pack(tmp_path / "x.tar", **{"a.png": picture(), "b.png": bytes(9000)}).read_bytes()
    packed = pack(tmp_path / "x.tgz", "w:gz", **{"a.png": np.random.default_rng(0).bytes(9000)}).read_bytes()
    for content in (whole[:3000], packed[:5000], b"text", b""):
        (tmp_path / "y.tar").write_bytes(content)
        with pytest.raises(UsageError, match=r"y\.tar: is neither a folder nor a complete tar file"):
            list(Photographs([tmp_path / "y.tar"]))
    with pytest.raises(UsageError, match=r"z\.tar/1\.png: its \.json is damaged"):
        list(Photographs([pack(tmp_path / "z.tar", **{"1.png": picture(), "1.json": b"{"})]))


def test_manifest_and_caption_column(tmp_path: Path) -> None:
    table = b"file,text,age\n1.png,by its last part,1\na/1.png,by its path,2\n"
    write(tmp_path, **{"in/a/1.png": picture(), "in/b/1.png": picture(), "in/c.png": picture(), "list.csv": table})
    write(tmp_path / "in", **{"metadata.csv": b"file_name,text,title\nc.png,kept,A title\na/1.png,not this,\n"})
    manifest = tmp_path / "list.csv"
    found = columns(Photographs([tmp_path / "in"], manifest=manifest))
    assert found["a/1.png"] == {"text": "by its path", "title": "", "age": "2"}
    assert found["b/1.png"] == {"text": "by its last part", "age": "1"}
    assert found["c.png"] == {"text": "kept", "title": "A title"}
    found = columns(Photographs([tmp_path / "in"], manifest=manifest, caption_column="title"))
    assert found["c.png"] == {"text": "A title"}
    assert found["b/1.png"] == {"age": "1"}
    assert columns(Photographs([tmp_path / "in"], caption_column="text"))["c.png"]["text"] == "kept"


def test_a_manifest_or_caption_column_of_other_data_is_refused(tmp_path: Path) -> None:
    write(tmp_path, **{"in/a.png": picture(), "list.csv": b"file,text\n/elsewhere/b.png,x\n"})
    with pytest.raises(UsageError, match=r"manifest: .* names none of the photographs, such as a\.png"):
        list(Photographs([tmp_path / "in"], manifest=tmp_path / "list.csv"))
    with pytest.raises(UsageError, match=r"no photograph has a column prompt \(.*a\.png has none\)"):
        list(Photographs([tmp_path / "in"], caption_column="prompt"))
    with pytest.raises(UsageError, match=r"none\.csv: cannot be read"):
        Photographs([tmp_path / "in"], manifest=tmp_path / "none.csv")


@pytest.mark.parametrize("name", ["/none", "./none", "a/b/c", "none.tar", "photo.jpg", "none.tar:train"])
def test_what_can_be_no_name_of_a_data_set_is_a_missing_file(name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name}: no such file or folder: check the name"):
        Photographs([name])


def test_data_sets_need_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        UsageError, match="owner/name: no such file or folder, and data sets need one more package: pip"
    ):
        Photographs(["owner/name"])
    with pytest.raises(UsageError, match="saved: data sets need one more package"):
        Photographs([write(tmp_path / "saved", **{"state.json": b"{}"})])


def test_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    write(tmp_path, **{"on_disk.png": picture(3)})
    pictures = [{"bytes": picture(1), "path": None}, None, {"bytes": None, "path": str(tmp_path / "on_disk.png")}]
    features = {"face": datasets.Image(), "age": datasets.Value("int32"), "title": datasets.Value("string")}
    rows = datasets.Dataset.from_dict(
        {"face": pictures, "age": [1, 2, 3], "title": ["x", "y", None]}, features=datasets.Features(features)
    )
    rows.with_format("numpy").save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"test": rows, "train": rows.select([2])}).save_to_disk(tmp_path / "splits")
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: asked.append((name, split)) or rows)

    for source in (tmp_path / "saved", tmp_path / "splits" / "test", "owner/name", "name:test[:3]"):
        found = Photographs([source], caption_column="title")
        assert columns(found) == {
            "00000000": {"age": "1", "text": "x"},
            "00000001": {"age": "2", "text": "y"},
            "00000002": {"age": "3"},
        }
        first, second, third = found
        assert (first.read()[0, 0, 0], third.read()[0, 0, 0]) == (1, 3)
        with pytest.raises(ImageError, match="has no picture"):
            second.read()
    assert asked == [("owner/name", "train"), ("name", "test[:3]")]
    assert columns(Photographs([tmp_path / "splits"])) == {"00000000": {"age": "3"}}
    assert columns(Photographs([rows_of_pictures_alone(rows, tmp_path / "bare")])) == {f"{k:08}": {} for k in range(3)}
    with pytest.raises(UsageError, match=r"has no column of images \(its columns are age, title\)"):
        Photographs([rows_of_pictures_alone(rows, tmp_path / "text", without="face")])


def rows_of_pictures_alone(rows, folder: Path, without: str = "") -> Path:
    rows.remove_columns([without] if without else ["age", "title"]).save_to_disk(folder)
    return folder


def test_a_data_set_that_cannot_be_loaded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()

    def refuse(name: str, split: str) -> None:
        raise ConnectionError("two\nlines")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UsageError, match=r"^none: no such file or folder, and .* cannot load it \(two lines\)$"):
        Photographs(["none"])
    rows = datasets.Dataset.from_dict({"a": [1]})
    datasets.DatasetDict({"test": rows, "val": rows}).save_to_disk(tmp_path / "splits")
    with pytest.raises(UsageError, match="has no split train: name the folder of one of its splits, test, val"):
        Photographs([tmp_path / "splits"])
