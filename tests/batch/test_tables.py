"""Parquet and saved `datasets`: images are replaced, all other columns and the schema are kept."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.errors import UsageError
from tests.batch.fakes import CONFIG, decoded, encoded, failed, manifest, messages, pixels, process, written
from tests.fake_anonymizer import expected
from tests.lazy import LazyModule

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
