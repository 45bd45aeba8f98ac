"""The `dataset` command: output, messages and exit codes; sharing by `accelerate launch`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deid_diffusion.batch import executors
from deid_diffusion.cli import anonymize
from deid_diffusion.errors import UsageError
from tests.batch.fakes import encoded, load


@pytest.fixture(autouse=True)
def _folder(workdir, monkeypatch):
    monkeypatch.setattr(anonymize, "load_anonymizer", load)
    Path("in").mkdir()
    for k in range(1, 5):
        Path("in", f"{k}.png").write_bytes(encoded(k))


def test_folder(call):
    Path("in/bad.jpg").write_bytes(b"")
    code, out, err = call("dataset", "in", "-o", "out")
    assert code == 2
    assert out == ["4 de-identified, 1 left out; 4 faces: 4 replaced"]
    assert err == ["in/bad.jpg: is empty (0 bytes): get a complete copy"]
    assert len(Path("out.manifest.jsonl").read_text().splitlines()) == 5
    Path("in/bad.jpg").unlink()
    assert call("dataset", "in", "-o", "out")[:2] == (0, ["4 already done; 0 faces: 0 replaced"])


def test_manifest_option(call):
    Path("m.jsonl").write_text("mine")
    code, _, (line,) = call("dataset", "in", "-o", "out", "--manifest", "m.jsonl")
    assert code == 2
    assert "m.jsonl: exists already" in line
    assert Path("m.jsonl").read_text() == "mine"
    assert call("dataset", "in", "-o", "out", "--manifest", "n.jsonl")[0] == 0
    assert json.loads(Path("n.jsonl").read_text().splitlines()[0])["model"] == "fake"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none", "-o", "out"), "none: no such file or folder"),
        (("empty", "-o", "out"), "empty: no photo, tar or table found"),
        (("in", "-o", "in"), "in: is not empty"),
        (("in", "-o", "out", "--ray-address", "x:1"), "--ray-address: requires --engine ray"),
        (("in", "-o", "out", "--method", "fill", "--prompt", "x"), "method fill: keeps and changes"),
        (("in", "-o", "out", "--manifest", "no/m.jsonl"), "its folder does not exist"),
    ],
)
def test_bad_usage_is_one_line(call, arguments, message):
    Path("empty").mkdir()
    code, out, err = call("dataset", *arguments)
    assert (code, out) == (2, [])
    assert len(err) == 1
    assert message in err[0]


def test_warnings(call):
    assert any("warning: " in line for line in call("dataset", "in", "-o", "out", "--method", "blur")[2])


def test_launched_process_refuses_workers(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="accelerate launch starts"):
        executors.share_of_this_process(2, "local", "auto")


def test_accelerate_launch(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "from deid_diffusion.cli import anonymize, main\nfrom tests.batch.fakes import load_light\n"
        "anonymize.load_anonymizer = load_light\nmain.main()\n"
    )
    root = str(Path(__file__).parents[2])
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    run = subprocess.run(
        [sys.executable, *launch, str(script), "dataset", "in", "-o", "out"],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in Path("out.manifest.jsonl").read_text().splitlines()]
    assert [line["output"] for line in lines] == [f"{k}.png" for k in range(1, 5)]
    summaries = [line for line in run.stdout.splitlines() if "de-identified" in line]
    assert sum(int(line.split()[0]) for line in summaries) == 4
