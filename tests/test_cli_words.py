"""Attributes in words on the command line: what reaches the anonymizer, and one line for what cannot."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion import cli_anonymize
from deid_diffusion.attributes.choice import choose
from deid_diffusion.errors import UsageError
from deid_diffusion.options import Options

from .fake_anonymizer import FakeAnonymizer


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeAnonymizer:
    monkeypatch.chdir(tmp_path)
    fake = FakeAnonymizer()
    monkeypatch.setattr(cli_anonymize, "load_anonymizer", lambda model, device: fake)
    return fake


def photos(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(name)


def test_attributes_in_words(call, fake):
    photos("in/a.png", "in/b.png")
    entries = [{"image": "b.png", "box": [1, 2, 8, 9], "keep": [], "change": {"gender": "man"}}]
    Path("w.json").write_text(json.dumps(entries))
    words = ("--keep", "expression,facial hair", "--keep", "freckles", "--change", "age=70", "--change", "gender=woman")
    more = ("--prompt", "in the rain", "--map-privacy", "0.5", "--wishes", "w.json")
    assert call("anonymize", "in", "-o", "out", *words, *more)[0] == 0
    first, second = fake.calls
    options = first["options"]
    assert options.choice == choose(["expression", "facial hair", "freckles"], {"age": "elderly", "gender": "woman"})
    assert (options.prompt, options.map_privacy) == ("in the rain", 0.5)
    assert first["wishes"] == ()
    (wish,) = second["wishes"]
    assert (wish.place.box, wish.choice) == ((1, 2, 9, 11), choose((), {"gender": "man"}))
    Path("out/a.png").unlink()
    assert call("anonymize", "in", "-o", "out", "--wishes", "w.json")[0] == 0  # b.png is there, though already done
    assert call("anonymize", "in", "-o", "none", "--keep", "none")[0] == 0
    assert fake.calls[-1]["options"].keep == ()


def test_what_a_model_cannot_keep_is_one_line_for_all_photos(call, fake, monkeypatch):
    def refuse(options: Options, choices: object) -> None:
        raise UsageError("age: this model reads no attributes")

    photos("in/a.png", "in/b.png")
    monkeypatch.setattr(fake, "check", refuse)
    code, out, err = call("anonymize", "in", "-o", "out", "--keep", "age")
    assert (code, out, err) == (2, [], ["error: age: this model reads no attributes"])
    assert not fake.calls


@pytest.mark.parametrize(
    "wrong",
    [
        ["--keep", "expresion"],
        ["--keep", "age,"],
        ["--keep", "age", "--change", "age=70"],
        ["--change", "age"],
        ["--change", "hair=red"],
        ["--change", "gender=tall"],
        ["--change", "gender=man", "--method", "fill"],
        ["--keep", "age", "--method", "blur"],
        ["--map-privacy", "2"],
        ["--wishes", "none.json"],
        ["--wishes", "a.png"],
        ["--wishes", "w.json"],
        ["--wishes", "w.json", "--method", "fill"],
        ["--wishes", "w.json", "--report", "w.json"],
    ],
)
def test_words_that_cannot_be_met_are_one_line_before_anything_is_done(call, fake, wrong):
    photos("a.png")
    Path("w.json").write_text(json.dumps([{"image": "other.png", "box": [1, 2, 3, 4], "keep": []}]))
    code, out, err = call("anonymize", "a.png", "-o", "out", *wrong)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ")
    assert not fake.calls
    assert not Path("out").exists()


def test_a_wrong_choice_is_named_with_the_right_ones(call, fake):
    photos("a.png")
    code, _, errors = call("anonymize", "a.png", "-o", "out", "--method", "blurr")
    assert code == 2
    (line,) = errors
    assert line.startswith("error: Invalid value for '--method': 'blurr' is not one of 'synth', 'fill',")
