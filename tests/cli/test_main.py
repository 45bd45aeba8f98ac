"""The command line as a user meets it: exit codes, one-line messages, no traceback."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deid_diffusion
from deid_diffusion.attributes.selection import make_selection
from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.cli import anonymize, main
from deid_diffusion.errors import DeidError, UsageError
from deid_diffusion.io import images
from deid_diffusion.options import Options
from deid_diffusion.results import ImageRecord
from tests.fake_anonymizer import COVERED, REPLACED, FakeAnonymizer, expected

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEID_DEBUG", raising=False)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake(monkeypatch) -> FakeAnonymizer:
    fake = FakeAnonymizer()
    for module in (main, anonymize):
        monkeypatch.setattr(module, "load_anonymizer", lambda model, device: fake)
    return fake


def photos(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS).save(name)


@pytest.mark.parametrize(
    "wrong", [["anonymize"], ["anonymize", "a.png", "--stepz", "3"], ["anonymize", "a", "--steps", "0"], ["nope"]]
)
def test_wrong_usage_is_one_line(call, wrong):
    code, out, err = call(*wrong)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ")


def test_no_argument_shows_the_help(call):
    code, out, err = call()
    assert (code, err) == (0, [])
    assert out[0].startswith("Usage:")


def test_version_and_help(call):
    assert call("--version") == (0, [f"deid-diffusion {deid_diffusion.__version__}"], [])
    for command in ("anonymize", "attack", "attributes", "demo", "inspect", "keys", "prepare"):
        code, out, _ = call(command, "--help")
        assert code == 0
        assert out[0].startswith(f"Usage: deid-diffusion {command}")
    text = " ".join(" ".join(call("anonymize", "--help")[1]).split())
    assert "Repeatable, and therefore linkable: omit it for fresh randomness." in text
    assert "lossless" in text
    assert f"({', '.join(VOCABULARY)})" in text


@pytest.mark.parametrize(
    "code",
    [
        "import deid_diffusion",
        *(
            f"import sys; sys.argv = ['deid-diffusion', {options}]\nfrom deid_diffusion.cli.main import main\n"
            "try: main()\nexcept SystemExit: pass"
            for options in ("'--version'", "'--help'", "'anonymize', '--help'", "'evaluate', '--help'")
        ),
    ],
)
def test_import_help_and_version_import_nothing_heavy(code):
    heavy = ("torch", "diffusers", "transformers", "mediapipe", "onnxruntime", "skimage", "PIL", "cv2", "numpy")
    code += f"\nimport sys; print([name for name in {heavy} if name in sys.modules])"
    root = Path(deid_diffusion.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_folder(call, fake):
    photos("in/a.png", "in/b.jpg")
    Path("in/note.txt").touch()
    options = ("--steps", "4", "--seed", "5", "--batch-size", "6", "--report", "r.jsonl")
    code, out, err = call("anonymize", "in", "-o", "out", *options)
    assert code == 0
    assert out == ["2 photos: 2 de-identified, 1 other files skipped; 2 faces: 2 replaced"]
    assert err[-1] == "2/2 photos, 2 faces"
    assert fake.calls[0]["options"] == Options(num_inference_steps=4, seed=5, batch_size=6)
    np.testing.assert_array_equal(images.read("out/a.png").pixels, expected(PIXELS))
    records = [ImageRecord.from_json(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [(record.input, record.output) for record in records] == [
        ("in/a.png", "out/a.png"),
        ("in/b.jpg", "out/b.png"),
    ]


def test_resuming_needs_no_model(call, fake, monkeypatch):
    photos("in/a.png")
    assert call("anonymize", "in", "-o", "out")[0] == 0
    monkeypatch.setattr(anonymize, "load_anonymizer", None)
    assert call("anonymize", "in", "-o", "out") == (0, ["1 photo: 1 already done; 0 faces: 0 replaced"], [])


def test_covered_faces_are_exit_code_3(call, fake):
    photos("a.png")
    fake.faces = (REPLACED, COVERED)
    code, out, _ = call("anonymize", "a.png", "-o", "b.webp")
    assert (code, out) == (3, ["1 photo: 1 de-identified; 2 faces: 1 replaced, 1 covered"])
    assert images.read("b.webp").format == "WEBP"


def test_no_face(call, fake):
    photos("a.png")
    fake.faces = ()
    assert call("anonymize", "a.png", "-o", "out")[:2] == (0, ["1 photo: 1 without a face; 0 faces: 0 replaced"])
    code, _, err = call("anonymize", "a.png", "-o", "strict", "--require-face")
    assert code == 2
    assert err[0] == "a.png: no face found, and --require-face asks for one: nothing written"


def test_a_bad_photo_is_one_line_and_the_rest_goes_on(call, fake):
    photos("in/c.png")
    Path("in/a.jpg").write_text("this is a text")
    Path("in/b.png").write_bytes(b"")
    code, out, err = call("anonymize", "in", "-o", "out")
    assert code == 2
    assert out == ["3 photos: 1 de-identified, 2 failed; 1 face: 1 replaced"]
    assert [line for line in err if "photos, " not in line] == [
        "in/a.jpg: is not a photo, or its header is damaged: give JPEG, PNG, WebP, TIFF or HEIC",
        "in/b.png: is empty (0 bytes): get a complete copy",
    ]
    assert Path("out/c.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.png"], "no output"),
        (["a.png", "-o", "a.png"], "is the input a.png itself"),
        (["a.png", "b/a.png", "-o", "out"], "a.png and b/a.png would both become out/a.png"),
        (["empty", "-o", "out"], "no photo or clip found"),
        (["a.png", "-o", "out", "--report", "b.jpg"], "is a photo's name"),
        (["a.png", "-o", "out", "--report", "none/r.jsonl"], "folder does not exist"),
        (["a.png", "--in-place", "--overwrite"], "--in-place"),
    ],
)
def test_bad_usage_is_one_line_before_anything_is_done(call, fake, arguments, words):
    photos("a.png", "b/a.png")
    Path("empty").mkdir()
    code, out, err = call("anonymize", *arguments)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ")
    assert words in err[0]
    assert not fake.calls
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "arguments", [["--steps", "0"], ["--seed", "-1"], ["--batch-size", "x"], ["--format", "bmp"], ["--nonsense"]]
)
def test_bad_options(call, fake, arguments):
    photos("a.png")
    assert call("anonymize", "a.png", "-o", "out", *arguments)[0] == 2
    assert not Path("out").exists()


def test_a_missing_model_ends_the_run(call, monkeypatch):
    def refuse(model: str, device: str) -> None:
        raise DeidError(f"{model}: no such model: check the name")

    monkeypatch.setattr(anonymize, "load_anonymizer", refuse)
    photos("a.png", "b.png")
    code, out, err = call("anonymize", "a.png", "b.png", "-o", "out", "--model", "x")
    assert (code, out, err) == (2, [], ["error: x: no such model: check the name"])


def test_interrupt(call, fake):
    photos("in/a.png", "in/b.png")

    def interrupt(image: np.ndarray) -> None:
        if len(fake.calls) == 2:
            raise KeyboardInterrupt

    fake.hook = interrupt
    code, out, err = call("anonymize", "in", "-o", "out", "--batch-size", "1")
    assert (code, out) == (130, [])
    assert err[-1].startswith("interrupted: ")
    assert [path.name for path in Path("out").iterdir()] == ["a.png"]
    fake.hook = None
    assert call("anonymize", "in", "-o", "out")[1] == ["2 photos: 1 de-identified, 1 already done; 1 face: 1 replaced"]


def test_full_disk(call, fake, monkeypatch):
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    photos("a.png")
    monkeypatch.setattr("os.fsync", full)
    code, _, err = call("anonymize", "a.png", "-o", "out")
    assert code == 2
    assert err[0] == "out/a.png: the disk is full: free some space and run the command again"
    assert not list(Path("out").iterdir())


def test_internal_errors(call, fake, monkeypatch):
    def fail(image: np.ndarray) -> None:
        raise RuntimeError("two\nlines")

    photos("a.png", "b.png")
    fake.hook = fail
    code, _, err = call("anonymize", "a.png", "b.png", "-o", "out")
    assert code == 1
    assert [line for line in err if "internal error: RuntimeError: two lines (please report" in line] == err[::2]
    assert not list(Path("out").iterdir())
    assert "Traceback (most recent call last):" in call("--debug", "anonymize", "a.png", "-o", "out")[2]

    def broken(model: str, device: str) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(anonymize, "load_anonymizer", broken)
    code, out, err = call("anonymize", "a.png", "-o", "out")
    assert (code, out, len(err)) == (1, [], 1)
    assert err[0].startswith("internal error: ZeroDivisionError: division by zero (please report")
    assert "Traceback (most recent call last):" in call("--debug", "anonymize", "a.png", "-o", "out")[2]


def test_in_place(call, fake):
    photos("in/a.png")
    Path("in/b.heic").write_bytes(b"heic")
    code, out, err = call("anonymize", "in", "--in-place")
    assert code == 2
    assert out == ["2 photos: 1 de-identified, 1 failed; 1 face: 1 replaced"]
    assert "in/b.heic: .heic cannot be written" in err[1]
    assert err[-1] == "the photos that failed are unchanged: they still show the original faces"
    np.testing.assert_array_equal(images.read("in/a.png").pixels, expected(PIXELS))


def test_names_that_a_terminal_would_obey(call, fake):
    Path("in").mkdir()
    Path("in/\x1b[2J\n.png").write_bytes(b"")
    code, _, err = call("anonymize", "in", "-o", "out")
    assert code == 2
    assert err[0] == "in/\N{REPLACEMENT CHARACTER}[2J .png: is empty (0 bytes): get a complete copy"


def test_inspect(call, fake):
    photos("a.png")
    assert call("inspect", "a.png", "-o", "seen.png") == (0, ["1 face drawn: seen.png"], [])
    assert images.read("seen.png").pixels.shape[1] >= 3 * 32
    assert call("inspect", "a.png", "-o", "seen.png")[0] == 2
    assert call("inspect", "a.png", "-o", "seen.png", "--overwrite")[0] == 0
    before = Path("a.png").read_bytes()
    assert call("inspect", "a.png", "-o", "a.png", "--overwrite")[0] == 2
    assert Path("a.png").read_bytes() == before
    code, out, err = call("inspect", "none.png")
    assert (code, out, err) == (2, [], ["error: none.png: no such file: check the name"])


def test_prepare(call, astronaut):
    photos("in/a/no_face.png", "in/b/no_face.png")
    Image.fromarray(astronaut[:300, 70:370]).save("in/a/face.png")
    Path("in/b/face.jpg").write_text("this is a text")
    Path("in/metadata.csv").write_text("file_name,title\na/face.png,an astronaut\n")
    options = ("-o", "cache", "--caption-column", "title", "--resolution", "32", "--variants", "2")
    code, out, err = call("prepare", "in", *options)
    assert code == 0
    assert out == [
        "2 crops of 4 photographs in cache; 3 skipped: 1 broken, 2 without a face (cache/skipped.jsonl)",
    ]
    assert err == ["1/4 photos", "2/4 photos", "3/4 photos", "4/4 photos"]
    rows = [json.loads(line) for line in Path("cache/rows.jsonl").read_text().splitlines()]
    assert rows == [{"file": "a/face.png", "grey": False, "text": "an astronaut"}] * 2
    assert np.load("cache/crops.npy").shape == (2, 32, 32, 3)
    assert call("prepare", "in", *options) == (
        0,
        ["cache is complete: 2 crops of 4 photographs; 3 skipped: 1 broken, 2 without a face (cache/skipped.jsonl)"],
        [],
    )
    assert call("prepare", "in", "-o", "cache", "--seed", "1")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.tar"], "none.tar: no such file or folder: check the name"),
        (["empty"], "empty: no photograph found"),
        (["flat"], "cache: none of the 1 photographs can be used: 0 broken, 1 without a face (cache/skipped.jsonl)"),
        (["flat", "--manifest", "none.csv"], "none.csv: cannot be read as a table"),
        (["flat", "--caption-column", "title"], "caption column: no photograph has a column title"),
        (["flat", "--resolution", "0"], "resolution"),
        ([], "DATA"),
    ],
)
def test_data_that_cannot_be_prepared(call, arguments, words):
    photos("flat/a.png")
    Path("empty").mkdir()
    code, out, err = call("prepare", *arguments, "-o", "cache")
    assert (code, out) == (2, [])
    assert err[-1].startswith("error: ")
    assert words in err[-1]
    assert len([line for line in err if " photos" not in line]) == 1
    assert not Path("cache/crops.npy").exists()


def test_interrupted_preparation(call, monkeypatch):
    from deid_diffusion.training import prepare

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    photos("in/a.png")
    monkeypatch.setattr(prepare, "face_crops", interrupt)
    code, out, err = call("prepare", "in", "-o", "cache")
    assert (code, out, len(err)) == (130, [], 1)
    assert err[0].startswith("interrupted: ")


def test_wishes_reach_every_photo(call, fake):
    photos("in/a.png")
    boxes = {"images": [{"id": 1, "file_name": "in/a.png"}], "annotations": [{"image_id": 1, "bbox": [1, 2, 8, 9]}]}
    Path("b.json").write_text(json.dumps(boxes))
    assert call("keys", "new", "key")[0] == 0
    wishes = ("--key-file", "key", "--attempts", "5", "--min-face", "20", "--keep-region", "eyes", "--boxes", "b.json")
    code, _, err = call("anonymize", "in", "-o", "out", *wishes, "--only", "b.json", "--export-boxes", "found.json")
    assert (code, len(err)) == (0, 2)
    assert err[0].startswith("warning: a kept region shows")
    (given,) = fake.calls
    options = given["options"]
    assert (options.num_candidates, options.min_face, options.keep_regions) == (5, 20, {"eyes"})
    assert options.pseudonyms.store == Path("key.people.sqlite")
    assert [face.box for face in given["boxes"]] == [face.box for face in given["only"]] == [(1, 2, 9, 11)]
    assert json.loads(Path("found.json").read_text())["annotations"][0]["action"] == "replaced"


@pytest.mark.parametrize("method", ["blur", "pixelate"])
def test_reversible_methods_warn(call, fake, method):
    photos("in/a.png")
    _, _, err = call("anonymize", "in", "-o", "out", "--method", method)
    assert err[0].startswith("warning: ")
    assert "Newton" in err[0]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--key-file", "none"],
        ["--key-file", "key", "--seed", "1"],
        ["--key-file", "key", "--method", "fill"],
        ["--store", "s"],
        ["--keep-people", "none"],
        ["--boxes", "none.json"],
        ["--only", "a.png"],
        ["--method", "swap"],
        ["--keep-region", "ears"],
        [part for name in ("skin", "brows", "eyes", "nose", "mouth") for part in ("--keep-region", name)],
        ["--attempts", "0"],
        ["--export-boxes", "no/such/folder/x.json"],
        ["--export-boxes", "a.png", "--overwrite"],
        ["--export-boxes", "r.json", "--report", "./r.json"],
        ["--key-file", "key", "--report", "key"],
        ["--key-file", "key", "--report", "key.people.sqlite"],
        ["--boxes", "b.json", "--export-boxes", "b.json", "--overwrite"],
    ],
)
def test_wishes_that_cannot_be_met_are_one_line(call, fake, wrong):
    photos("a.png")
    Path("b.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "a.png"}], "annotations": []}))
    call("keys", "new", "key")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    code, out, err = call("anonymize", "a.png", "-o", "out", *wrong)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ")
    assert {path: path.read_bytes() for path in before} == before
    assert not fake.calls
    assert not Path("out").exists() or not list(Path("out").iterdir())


@pytest.fixture
def fake_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeAnonymizer:
    monkeypatch.chdir(tmp_path)
    fake_model = FakeAnonymizer()
    monkeypatch.setattr(anonymize, "load_anonymizer", lambda model, device: fake_model)
    return fake_model


def two_photos(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(name)


def test_attributes_in_words(call, fake_model):
    two_photos("in/a.png", "in/b.png")
    entries = [{"image": "b.png", "box": [1, 2, 8, 9], "keep": [], "change": {"gender": "man"}}]
    Path("w.json").write_text(json.dumps(entries))
    words = ("--keep", "expression,facial hair", "--keep", "freckles", "--change", "age=70", "--change", "gender=woman")
    more = ("--prompt", "in the rain", "--map-privacy", "0.5", "--wishes", "w.json")
    assert call("anonymize", "in", "-o", "out", *words, *more)[0] == 0
    first, second = fake_model.calls
    options = first["options"]
    assert options.choice == make_selection(
        ["expression", "facial hair", "freckles"], {"age": "elderly", "gender": "woman"}
    )
    assert (options.prompt, options.map_blend) == ("in the rain", 0.5)
    assert first["wishes"] == ()
    (wish,) = second["wishes"]
    assert (wish.place.box, wish.choice) == ((1, 2, 9, 11), make_selection((), {"gender": "man"}))
    Path("out/a.png").unlink()
    assert call("anonymize", "in", "-o", "out", "--wishes", "w.json")[0] == 0  # b.png is there, though already done
    assert call("anonymize", "in", "-o", "none", "--keep", "none")[0] == 0
    assert fake_model.calls[-1]["options"].keep == ()


def test_what_a_model_cannot_keep_is_one_line_for_all_photos(call, fake_model, monkeypatch):
    def refuse(options: Options, choices: object) -> None:
        raise UsageError("age: this model reads no attributes")

    two_photos("in/a.png", "in/b.png")
    monkeypatch.setattr(fake_model, "check", refuse)
    code, out, err = call("anonymize", "in", "-o", "out", "--keep", "age")
    assert (code, out, err) == (2, [], ["error: age: this model reads no attributes"])
    assert not fake_model.calls


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
def test_words_that_cannot_be_met_are_one_line_before_anything_is_done(call, fake_model, wrong):
    two_photos("a.png")
    Path("w.json").write_text(json.dumps([{"image": "other.png", "box": [1, 2, 3, 4], "keep": []}]))
    code, out, err = call("anonymize", "a.png", "-o", "out", *wrong)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ")
    assert not fake_model.calls
    assert not Path("out").exists()


def test_a_wrong_choice_is_named_with_the_right_ones(call, fake_model):
    two_photos("a.png")
    code, _, errors = call("anonymize", "a.png", "-o", "out", "--method", "blurr")
    assert code == 2
    (line,) = errors
    assert line.startswith("error: Invalid value for '--method': 'blurr' is not one of 'generate', 'fill',")
