"""Parquet and what `datasets` saves: pictures replaced, every other column as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.errors import UsageError
from tests.batch.fakes import RECIPE, decoded, encoded, pixels
from tests.batch.test_dataset import manifest, process, written
from tests.fake_anonymizer import expected

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()


def rows(count: int) -> datasets.Dataset:
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=["cat", "dog"]),
        boxes=datasets.Sequence(datasets.Value("float32")),
    )
    pictures = [{"bytes": encoded(k + 1), "path": f"/home/someone/{k}.jpg"} for k in range(count)]
    columns = {"image": pictures, "label": [k % 2 for k in range(count)], "boxes": [[k, 1.5] for k in range(count)]}
    return datasets.Dataset.from_dict(columns, features=features)


def check(made: datasets.Dataset, count: int) -> None:
    given = rows(count)
    assert made.features == given.features
    assert made["label"] == given["label"]
    assert made["boxes"] == given["boxes"]
    raw = made.cast_column("image", datasets.Image(decode=False))
    for k, cell in enumerate(raw["image"]):
        assert cell["path"] == f"{k}.png"
        np.testing.assert_array_equal(decoded(cell["bytes"]), expected(pixels(k + 1)))


def test_parquet_keeps_labels_and_features():
    rows(40).to_parquet("in/train-00000-of-00001.parquet", batch_size=7)
    outcomes, _ = process()
    assert len(outcomes) == 40
    assert outcomes[0].report.input == "in/train-00000-of-00001.parquet/0"
    made = datasets.load_dataset("parquet", data_files="out/*.parquet", split="train", cache_dir="cache")
    check(made, 40)
    assert len(manifest()) == 41
    assert process()[0] == []


def test_a_saved_data_set_is_one_again():
    rows(40).save_to_disk("in/set", num_shards=2)
    process()
    made = datasets.load_from_disk("out/set")
    check(made, 40)
    assert made._fingerprint != datasets.load_from_disk("in/set")._fingerprint
    assert len([name for name in written() if name.endswith(".arrow")]) == 2


def test_a_saved_data_set_with_splits_is_one_again():
    datasets.DatasetDict(train=rows(3), test=rows(2)).save_to_disk("in")
    process()
    made = datasets.load_from_disk("out")
    assert {name: len(split) for name, split in made.items()} == {"train": 3, "test": 2}
    check(made["test"], 2)


def test_a_row_that_fails_is_left_out():
    table = rows(5).data.table.to_pydict()
    table["image"][2]["bytes"] = b"no photo"
    table["image"][3] = None
    features = rows(1).features
    datasets.Dataset.from_dict(table, features=features).save_to_disk("in/set")
    outcomes, _ = process()
    assert [one.report.input for one in outcomes if one.message] == ["in/set/data-00000-of-00001.arrow/2"]
    made = datasets.load_from_disk("out/set")
    assert made["label"][:] == [0, 1, 1, 0]
    assert made[2]["image"] is None


def test_columns_that_may_hold_pictures_have_to_be_named():
    table = pa.table({"key": ["a", "b"], "jpg": [encoded(1), encoded(2)], "mask": [b"1", b"2"]})
    pq.write_table(table, "in/a.parquet")
    with pytest.raises(UsageError, match=r"column jpg .* --image-column jpg, or --copy jpg"):
        process()
    with pytest.raises(UsageError, match="column mask"):
        process(replace(RECIPE, image_columns=("jpg",)))
    process(replace(RECIPE, image_columns=("jpg",), copied=frozenset({"mask"})))
    made = pq.read_table("out/a.parquet")
    assert made["key"].to_pylist() == ["a", "b"]
    assert made["mask"].to_pylist() == [b"1", b"2"]
    np.testing.assert_array_equal(decoded(made["jpg"][1].as_py()), expected(pixels(2)))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[[[1, 2]]]], pa.list_(pa.list_(pa.list_(pa.uint8())))),
        pa.array([[b"12"]], pa.list_(pa.binary())),
        pa.array([{"bytes": b"1", "rate": 2}]),
    ],
)
def test_nested_pictures_are_seen(column):
    pq.write_table(pa.table({"image": [{"bytes": encoded(1), "path": None}], "more": column}), "in/a.parquet")
    with pytest.raises(UsageError, match="column more"):
        process()


def test_tables_without_pictures_and_damaged_ones():
    pq.write_table(pa.table({"label": [1]}), "in/a.parquet")
    with pytest.raises(UsageError, match="has no column of pictures"):
        process()
    Path("in/a.parquet").write_bytes(b"PAR1 and no more")
    (outcome,), _ = process()
    assert "a.parquet: is damaged" in outcome.message


def test_a_picture_without_a_name_keeps_its_format():
    pq.write_table(pa.table({"jpg": [encoded(1, "JPEG"), encoded(2, "PNG")]}), "in/a.parquet")
    process(replace(RECIPE, image_columns=("jpg",), file_format="keep"))
    first, second = pq.read_table("out/a.parquet")["jpg"].to_pylist()
    assert first[:2] == b"\xff\xd8"
    assert second[1:4] == b"PNG"
