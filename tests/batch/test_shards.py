"""WebDataset shards: keys and labels are kept, images are replaced, failed samples are left out whole."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.batch import dataset
from deid_diffusion.batch.executors import run_in_processes
from deid_diffusion.batch.journal import RunDirectory
from deid_diffusion.batch.tasks import JobConfig
from deid_diffusion.errors import UsageError
from tests.batch.fakes import CONFIG, decoded, encoded, failed, load_light, manifest, messages, pixels, process, written
from tests.fake_anonymizer import expected
from tests.lazy import LazyModule

webdataset = pytest.importorskip("webdataset")


@pytest.fixture(autouse=True)
def _small_pieces(workdir, monkeypatch):
    monkeypatch.setattr(dataset, "PIECE", 2)


def write_shard(name: str, *members: tuple[str, bytes], mode: str = "w") -> None:
    with tarfile.open(Path("in", name), mode) as tar:
        for member, data in members:
            info = tarfile.TarInfo(member)
            info.size, info.uname = len(data), "someone"
            tar.addfile(info, io.BytesIO(data))


def samples(count: int) -> list[tuple[str, bytes]]:
    suffixes = [("jpg", encoded), ("cls", lambda k: b"%d" % (k - 1)), ("json", lambda k: b'{"k": 1}')]
    return [(f"d/{k:03}.{suffix}", content(k + 1)) for k in range(count) for suffix, content in suffixes]


def members(path: str) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz")])
def test_keys_and_labels(name, mode):
    write_shard(name, *samples(5), mode=mode)
    outcomes, _ = process()
    assert written() == [name]
    rows = list(webdataset.WebDataset(f"out/{name}", shardshuffle=False))
    assert [row["__key__"] for row in rows] == [f"d/{k:03}" for k in range(5)]
    for k, row in enumerate(rows):
        assert row["cls"] == b"%d" % k
        assert row["json"] == b'{"k": 1}'
        np.testing.assert_array_equal(decoded(row["png"]), expected(pixels(k + 1)))
    with tarfile.open(f"out/{name}") as tar:
        assert {member.uname for member in tar} == {""}
    assert [outcome.report.output for outcome in outcomes] == [f"{name}/d/{k:03}.png" for k in range(5)]
    records = [line for line in manifest() if "file" in line]
    assert [(line["file"], line["output"], line["items"]) for line in records] == [(f"in/{name}", name, 5)]


def test_failed_samples_are_left_out():
    write_shard(
        "a.tar",
        *[("0.png", encoded(1)), ("0.npy", b"12"), ("1.png", encoded(2)), ("1.cls", b"1"), ("2.png", b"no photo")],
        *[("3.png", encoded(3)), ("3.jpg", encoded(4)), ("4.left.png", encoded(5)), ("4.right.png", encoded(6))],
        *[("5.json", b"a" * 5000), ("README", b"text"), ("6.txt", b"no picture")],
        *[("7.png", encoded(7)), ("7.png", encoded(8))],
    )
    outcomes, _ = process()
    assert sorted(members("out/a.tar")) == ["1.cls", "1.png", "4.left.png", "4.right.png", "6.txt"]
    text = messages(outcomes)
    for part in ("0.npy: may be an image", "2.png: is not a photo", "the same name", "5.json: may embed", "README"):
        assert part in text
    reports = [outcome.report for outcome in outcomes if outcome.report.input == "in/a.tar/0.png"]
    assert [(report.status, report.output) for report in reports] == [("failed", None)]
    Path("out").rename("old")
    process(replace(CONFIG, copied=frozenset({".npy"})))
    assert members("out/a.tar")["0.npy"] == b"12"


def test_damaged_shard():
    write_shard("a.tar", *samples(4))
    complete = Path("in/a.tar").read_bytes()
    for end in (100, 3000, 3072, len(samples(4)) * 1024):
        Path("in/a.tar").write_bytes(complete[:end])
        (outcome,), _ = process()
        assert "a.tar: is damaged" in outcome.message
        assert written() == []
    Path("in/a.tar").write_bytes(complete)
    process()
    assert len(members("out/a.tar")) == 12


def test_resume_within_shard(monkeypatch):
    write_shard("a.tar", *samples(7))
    commit, committed = RunDirectory.commit, []

    def interrupted(self, result):
        if len(committed) == 2:
            raise KeyboardInterrupt
        committed.append(result)
        commit(self, result)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            process()
    assert written() == []
    outcomes, run = process()
    assert (len(outcomes), run.known) == (3, 4)
    assert len(members("out/a.tar")) == 21
    assert process()[0] == []
    Path("out/a.tar").unlink()
    assert len(process()[0]) == 7
    write_shard("a.tar", *samples(3))
    assert len(process()[0]) == 3
    assert len(members("out/a.tar")) == 9


def test_sample_that_kills_workers(workdir):
    write_shard("a.tar", *((f"{k}.png", encoded(k)) for k in range(3)))
    (workdir / "deaths").mkdir()
    config = JobConfig(load_light, f"{workdir / 'deaths'}:99")
    outcomes, _ = process(config, partial(run_in_processes, config, 1))
    assert sorted(members("out/a.tar")) == ["1.png", "2.png"]
    assert failed(outcomes) == ["in/a.tar/0"]
    assert len(list((workdir / "deaths").iterdir())) == 2


pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
if find_spec("datasets") is None:
    pytest.skip("data sets need deid-diffusion[data]", allow_module_level=True)
datasets = LazyModule("datasets")

pytestmark = pytest.mark.usefixtures("workdir")


def rows(count: int) -> datasets.Dataset:
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=["cat", "dog"]),
        boxes=datasets.Sequence(datasets.Value("float32")),
    )
    images = [{"bytes": encoded(k + 1), "path": f"/home/someone/{k}.jpg"} for k in range(count)]
    columns = {"image": images, "label": [k % 2 for k in range(count)], "boxes": [[k, 1.5] for k in range(count)]}
    return datasets.Dataset.from_dict(columns, features=features)


def check(result: datasets.Dataset, count: int) -> None:
    source = rows(count)
    assert result.features == source.features
    assert result["label"] == source["label"]
    assert result["boxes"] == source["boxes"]
    raw = result.cast_column("image", datasets.Image(decode=False))
    for k, cell in enumerate(raw["image"]):
        assert cell["path"] == f"{k}.png"
        np.testing.assert_array_equal(decoded(cell["bytes"]), expected(pixels(k + 1)))


def test_parquet():
    rows(40).to_parquet("in/train-00000-of-00001.parquet", batch_size=7)
    outcomes, _ = process()
    assert len(outcomes) == 40
    assert outcomes[0].report.input == "in/train-00000-of-00001.parquet/0"
    check(datasets.load_dataset("parquet", data_files="out/*.parquet", split="train", cache_dir="cache"), 40)
    assert len(manifest()) == 41
    assert process()[0] == []


def test_saved_dataset():
    datasets.DatasetDict(train=rows(40), test=rows(2)).save_to_disk("in", num_shards={"train": 2, "test": 1})
    process()
    result = datasets.load_from_disk("out")
    check(result["train"], 40)
    check(result["test"], 2)
    assert result["train"]._fingerprint != datasets.load_from_disk("in")["train"]._fingerprint
    assert len([name for name in written() if name.endswith(".arrow")]) == 3


def test_failed_row_is_left_out():
    columns = rows(5).data.table.to_pydict()
    columns["image"][2]["bytes"] = b"no photo"
    columns["image"][3] = None
    datasets.Dataset.from_dict(columns, features=rows(1).features).save_to_disk("in/set")
    assert failed(process()[0]) == ["in/set/data-00000-of-00001.arrow/2"]
    result = datasets.load_from_disk("out/set")
    assert result["label"][:] == [0, 1, 1, 0]
    assert result[2]["image"] is None


def test_row_with_two_images():
    columns = {"left": (encoded(1), encoded(3)), "right": (encoded(2), b"no photo")}
    cells = {name: [{"bytes": data, "path": None} for data in column] for name, column in columns.items()}
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"left": struct, "right": struct, "key": pa.string()}, metadata={"about": "pairs"})
    pq.write_table(pa.table({**cells, "key": ["a", "b"]}, schema), "in/a.parquet")
    assert failed(process()[0]) == ["in/a.parquet/1/left", "in/a.parquet/1/right"]
    result = pq.read_table("out/a.parquet")
    assert result["key"].to_pylist() == ["a"]
    assert result.schema.metadata == {b"about": b"pairs"}
    np.testing.assert_array_equal(decoded(result["right"][0].as_py()["bytes"]), expected(pixels(2)))


def test_undeclared_byte_columns():
    table = pa.table({"key": ["a", "b"], "jpg": [encoded(1), encoded(2)], "mask": [b"1", b"2"]})
    pq.write_table(table, "in/a.parquet")
    with pytest.raises(UsageError, match=r"column jpg .* --image-column jpg, or --copy jpg"):
        process()
    with pytest.raises(UsageError, match="column mask"):
        process(replace(CONFIG, image_columns=("jpg",)))
    process(replace(CONFIG, image_columns=("jpg",), copied=frozenset({"mask"})))
    result = pq.read_table("out/a.parquet")
    assert result["key"].to_pylist() == ["a", "b"]
    assert result["mask"].to_pylist() == [b"1", b"2"]
    np.testing.assert_array_equal(decoded(result["jpg"][1].as_py()), expected(pixels(2)))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[[[1, 2]]]], pa.list_(pa.list_(pa.list_(pa.uint8())))),
        pa.array([[b"12"]], pa.list_(pa.binary())),
        pa.array([{"bytes": b"1", "rate": 2}]),
    ],
)
def test_nested_bytes(column):
    pq.write_table(pa.table({"image": [{"bytes": encoded(1), "path": None}], "more": column}), "in/a.parquet")
    with pytest.raises(UsageError, match="column more"):
        process()


def test_unusable_tables():
    pq.write_table(pa.table({"label": [1]}), "in/a.parquet")
    with pytest.raises(UsageError, match="has no image column"):
        process()
    Path("in/a.parquet").write_bytes(b"PAR1 and no more")
    assert "a.parquet: is damaged" in messages(process()[0])


def test_image_without_name_keeps_format():
    pq.write_table(pa.table({"jpg": [encoded(1, "JPEG"), encoded(2, "PNG")]}), "in/a.parquet")
    process(replace(CONFIG, image_columns=("jpg",), file_format="keep"))
    first, second = pq.read_table("out/a.parquet")["jpg"].to_pylist()
    assert first[:2] == b"\xff\xd8"
    assert second[1:4] == b"PNG"
