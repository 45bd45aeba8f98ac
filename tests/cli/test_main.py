"""The command line as a user meets it: exit codes, one-line messages, no traceback."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deid_diffusion
from deid_diffusion.attributes.selection import make_selection
from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.cli import anonymize
from deid_diffusion.errors import DeidError, UsageError
from deid_diffusion.io import images
from deid_diffusion.options import Options, option_schema
from deid_diffusion.results import ImageRecord
from tests.failures import raising
from tests.fake_anonymizer import COVERED, REPLACED, expected

pytestmark = pytest.mark.usefixtures("workdir")


def coco(*annotations: dict, name: str = "a.png") -> str:
    """A COCO file of one image, as text."""
    entries = [{"image_id": 1, "bbox": [1, 2, 8, 9], **annotation} for annotation in annotations]
    return json.dumps({"images": [{"id": 1, "file_name": name}], "annotations": entries})


@pytest.fixture
def refused(call, fake) -> Iterator:
    """Run a command that has to fail with one line, before any photo is processed; returns the line."""

    def run(*arguments: str, warnings: int = 0) -> str:
        before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
        code, out, err = call(*arguments)
        assert (code, out, len(err)) == (2, [], 1 + warnings)
        assert err[-1].startswith("error: ")
        assert not fake.calls
        assert not Path("out").exists() or not list(Path("out").iterdir())
        assert {path: path.read_bytes() for path in before} == before
        return err[-1]

    return run


@pytest.mark.parametrize(
    "arguments", ["anonymize", "anonymize a.png --stepz 3", "anonymize a --num-inference-steps 0", "nope"]
)
def test_usage_error(refused, arguments):
    refused(*arguments.split())


def test_no_arguments_show_help(call):
    code, out, err = call()
    assert (code, err) == (0, [])
    assert out[0].startswith("Usage:")


def test_version_and_help(call):
    assert call("--version") == (0, [f"deid-diffusion {deid_diffusion.__version__}"], [])
    for command in ("anonymize", "attack", "attributes", "dataset", "demo", "inspect", "keys", "prepare"):
        code, out, _ = call(command, "--help")
        assert code == 0
        assert out[0].startswith(f"Usage: deid-diffusion {command}")


@pytest.mark.parametrize("command", ["anonymize", "dataset"])
def test_help_describes_schema(call, command):
    text = "".join("".join(call(command, "--help")[1]).split())
    for name in ("method", "seed", "num_inference_steps", "map_blend", "keep", "prompt"):
        assert f"--{name.replace('_', '-')}" in text
        assert "".join(option_schema(name)["description"].split()).rstrip(".") in text
    assert "".join(f"({', '.join(VOCABULARY)})".split()) in text
    for deprecated in ("--steps", "--attempts", "--map-privacy", "--boxes", "--only", "--wishes", "synth "):
        assert deprecated not in text


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
def test_light_imports(code):
    heavy = ("torch", "diffusers", "transformers", "mediapipe", "onnxruntime", "skimage", "PIL", "cv2", "numpy")
    code += f"\nimport sys; print([name for name in {heavy} if name in sys.modules])"
    root = Path(deid_diffusion.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_folder(call, fake, photos, pixels):
    photos("in/a.png", "in/b.jpg")
    Path("in/note.txt").touch()
    options = ("--num-inference-steps", "4", "--seed", "5", "--batch-size", "6", "--report", "r.jsonl")
    code, out, err = call("anonymize", "in", "-o", "out", *options)
    assert code == 0
    assert out == ["2 photos: 2 de-identified, 1 other files skipped; 2 faces: 2 replaced"]
    assert err[-1] == "2/2 photos, 2 faces"
    assert fake.calls[0]["options"] == Options(num_inference_steps=4, seed=5, batch_size=6)
    np.testing.assert_array_equal(images.read("out/a.png").pixels, expected(pixels))
    records = [ImageRecord.from_json(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [(record.input, record.output) for record in records] == [
        ("in/a.png", "out/a.png"),
        ("in/b.jpg", "out/b.png"),
    ]


@pytest.mark.parametrize(
    ("flags", "advice"),
    [
        (("--steps", "4", "--attempts=5"), "--steps (use --num-inference-steps), --attempts (use --num-candidates)"),
        (("--map-privacy", "0.5", "--method", "synth"), "--map-privacy (use --map-blend), --method synth (use "),
        (
            ("--method=synth", "--export-boxes", "e.json"),
            "--method generate), --export-boxes (use --export-annotations",
        ),
    ],
)
def test_deprecated_flags(call, fake, photos, flags, advice):
    photos("a.png")
    code, _, err = call("anonymize", *flags, "--prompt", "synth", "-o", "out", "--", "a.png")
    assert code == 0
    (warning,) = [line for line in err if line.startswith("warning: ")]
    assert advice in warning
    renamed = {"--steps": {"num_inference_steps": 4, "num_candidates": 5}, "--map-privacy": {"map_blend": 0.5}}
    assert fake.calls[0]["options"] == Options(prompt="synth", **renamed.get(flags[0], {}))
    assert Path("e.json").exists() == ("e.json" in flags)


def test_resume_without_model(call, fake, photos, monkeypatch):
    photos("in/a.png")
    assert call("anonymize", "in", "-o", "out")[0] == 0
    monkeypatch.setattr(anonymize, "load_anonymizer", None)
    assert call("anonymize", "in", "-o", "out") == (0, ["1 photo: 1 already done; 0 faces: 0 replaced"], [])


@pytest.mark.parametrize(
    ("faces", "code", "line"),
    [
        ((REPLACED, COVERED), 3, "1 photo: 1 de-identified; 2 faces: 1 replaced, 1 covered"),
        ((), 0, "1 photo: 1 without a face; 0 faces: 0 replaced"),
    ],
)
def test_exit_code_and_summary(call, fake, photos, faces, code, line):
    photos("a.png")
    fake.faces = faces
    assert call("anonymize", "a.png", "-o", "b.webp")[:2] == (code, [line])
    assert images.read("b.webp").format == "WEBP"


def test_require_face(call, fake, photos):
    photos("a.png")
    fake.faces = ()
    code, _, err = call("anonymize", "a.png", "-o", "out", "--require-face")
    assert (code, err[0]) == (2, "a.png: no face found, and --require-face asks for one: nothing written")


def test_bad_photos(call, fake, photos):
    photos("in/c.png")
    Path("in/a.jpg").write_text("this is a text")
    Path("in/b.png").write_bytes(b"")
    code, out, err = call("anonymize", "in", "-o", "out")
    assert code == 2
    assert out == ["3 photos: 1 de-identified, 2 failed; 1 face: 1 replaced"]
    assert [line for line in err if "photos, " not in line] == [
        "in/a.jpg: is not a photo, or its header is damaged: use JPEG, PNG, WebP, TIFF or HEIC",
        "in/b.png: is empty (0 bytes): get a complete copy",
    ]
    assert Path("out/c.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("a.png", "no output"),
        ("a.png -o a.png", "is the input a.png itself"),
        ("empty -o out", "no photo or clip found"),
        ("a.png -o out --report b.jpg", "has the suffix of a photo"),
        ("a.png -o out --report none/r.jsonl", "folder does not exist"),
        ("a.png --in-place --overwrite", "--in-place"),
    ],
)
def test_bad_arguments(refused, photos, arguments, words):
    photos("a.png", "b/a.png")
    Path("empty").mkdir()
    assert words in refused("anonymize", *arguments.split())


def test_missing_model(call, photos, monkeypatch):
    monkeypatch.setattr(anonymize, "load_anonymizer", raising(DeidError("x: no such model: check the name")))
    photos("a.png", "b.png")
    answer = call("anonymize", "a.png", "b.png", "-o", "out", "--model", "x")
    assert answer == (2, [], ["error: x: no such model: check the name"])


def test_interrupt(call, fake, photos):
    photos("in/a.png")
    fake.hook = raising(KeyboardInterrupt())
    code, out, err = call("anonymize", "in", "-o", "out")
    assert (code, out) == (130, [])
    assert err[-1].startswith("interrupted: ")


def test_internal_errors(call, fake, photos, monkeypatch):
    photos("a.png", "b.png")
    fake.hook = raising(RuntimeError("two\nlines"))
    code, _, err = call("anonymize", "a.png", "b.png", "-o", "out")
    assert code == 1
    assert [line for line in err if "internal error: RuntimeError: two lines (please report" in line] == err[::2]
    assert not list(Path("out").iterdir())
    assert "Traceback (most recent call last):" in call("--debug", "anonymize", "a.png", "-o", "out")[2]

    monkeypatch.setattr(anonymize, "load_anonymizer", raising(ZeroDivisionError("division by zero")))
    code, out, err = call("anonymize", "a.png", "-o", "out")
    assert (code, out, len(err)) == (1, [], 1)
    assert err[0].startswith("internal error: ZeroDivisionError: division by zero (please report")
    assert "Traceback (most recent call last):" in call("--debug", "anonymize", "a.png", "-o", "out")[2]


def test_in_place(call, fake, photos, pixels):
    photos("in/a.png")
    Path("in/b.heic").write_bytes(b"heic")
    code, out, err = call("anonymize", "in", "--in-place")
    assert code == 2
    assert out == ["2 photos: 1 de-identified, 1 failed; 1 face: 1 replaced"]
    assert "in/b.heic: .heic cannot be written" in err[1]
    assert err[-1] == "the photos that failed are unchanged: they still show the original faces"
    np.testing.assert_array_equal(images.read("in/a.png").pixels, expected(pixels))


def test_control_characters_in_names(call, fake):
    Path("in").mkdir()
    Path("in/\x1b[2J\n.png").write_bytes(b"")
    code, _, err = call("anonymize", "in", "-o", "out")
    assert code == 2
    assert err[0] == "in/\N{REPLACEMENT CHARACTER}[2J .png: is empty (0 bytes): get a complete copy"


def test_inspect(call, fake, photos):
    photos("a.png")
    assert call("inspect", "a.png", "-o", "faces.png") == (0, ["1 face drawn: faces.png"], [])
    assert images.read("faces.png").pixels.shape[1] >= 3 * 32
    assert call("inspect", "a.png", "-o", "faces.png")[0] == 2
    assert call("inspect", "a.png", "-o", "faces.png", "--overwrite")[0] == 0
    before = Path("a.png").read_bytes()
    assert call("inspect", "a.png", "-o", "a.png", "--overwrite")[0] == 2
    assert Path("a.png").read_bytes() == before
    assert call("inspect", "none.png") == (2, [], ["error: none.png: no such file: check the name"])


def test_prepare(call, photos, astronaut):
    photos("in/a/no_face.png", "in/b/no_face.png")
    Image.fromarray(astronaut[:300, 70:370]).save("in/a/face.png")
    Path("in/b/face.jpg").write_text("this is a text")
    Path("in/metadata.csv").write_text("file_name,title\na/face.png,an astronaut\n")
    options = ("-o", "cache", "--caption-column", "title", "--resolution", "32", "--variants", "2")
    code, out, err = call("prepare", "in", *options)
    assert code == 0
    assert out == ["2 crops of 4 photographs in cache; 3 skipped: 1 broken, 2 without a face (cache/skipped.jsonl)"]
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
        ("none.tar", "none.tar: no such file or folder: check the name"),
        ("empty", "empty: no photograph found"),
        ("flat", "cache: none of the 1 photographs can be used: 0 broken, 1 without a face (cache/skipped.jsonl)"),
        ("flat --manifest none.csv", "none.csv: cannot be read as a table"),
        ("flat --caption-column title", "caption column: no photograph has a column title"),
        ("flat --resolution 0", "resolution"),
        ("", "DATA"),
    ],
)
def test_prepare_bad_data(call, photos, arguments, words):
    photos("flat/a.png")
    Path("empty").mkdir()
    code, out, err = call("prepare", *arguments.split(), "-o", "cache")
    assert (code, out) == (2, [])
    assert err[-1].startswith("error: ")
    assert words in err[-1]
    assert len([line for line in err if " photos" not in line]) == 1
    assert not Path("cache/crops.npy").exists()


def test_prepare_interrupted(call, photos, monkeypatch):
    from deid_diffusion.training import prepare

    photos("in/a.png")
    monkeypatch.setattr(prepare, "face_crops", raising(KeyboardInterrupt))
    code, out, err = call("prepare", "in", "-o", "cache")
    assert (code, out, len(err)) == (130, [], 1)
    assert err[0].startswith("interrupted: ")


def test_options_reach_model(call, fake, photos):
    photos("in/a.png")
    assert call("keys", "new", "key")[0] == 0
    options = ("--key-file", "key", "--num-candidates", "5", "--min-face", "20", "--keep-region", "eyes")
    words = ("--keep", "expression,facial hair", "--keep", "freckles", "--change", "age=70", "--change", "gender=woman")
    more = ("--prompt", "in the rain", "--map-blend", "0.5", "--export-annotations", "faces.json")
    code, _, err = call("anonymize", "in", "-o", "out", *options, *words, *more)
    assert (code, len(err)) == (0, 2)
    assert err[0].startswith("warning: a kept region shows")
    (request,) = fake.calls
    options = request["options"]
    assert (options.num_candidates, options.min_face, options.keep_regions) == (5, 20, {"eyes"})
    assert (options.prompt, options.map_blend) == ("in the rain", 0.5)
    assert options.selection == make_selection(
        ["expression", "facial hair", "freckles"], {"age": "elderly", "gender": "woman"}
    )
    assert options.pseudonyms.store == Path("key.people.sqlite")
    assert (request["detections"], request["only"], request["overrides"]) == (None, None, ())
    assert json.loads(Path("faces.json").read_text())["annotations"][0]["action"] == "replaced"
    assert call("anonymize", "in", "-o", "none", "--keep", "none")[0] == 0
    assert fake.calls[-1]["options"].keep == ()


def test_annotations(call, fake, photos):
    photos("in/a.png", "in/b.png")
    faces = [
        {"keep": [], "change": {"gender": "man"}},
        {"bbox": [12, 2, 8, 9]},
        {"bbox": [22, 2, 8, 9], "ignore": True},
    ]
    content = json.loads(coco(*faces))
    content["images"].append({"id": 2, "file_name": "b.png"})
    Path("faces.json").write_text(json.dumps(content))
    assert call("anonymize", "in", "-o", "out", "--annotations", "faces.json", "--keep", "age")[0] == 0
    first, second = fake.calls
    assert [face.box for face in first["detections"]] == [(1, 2, 9, 11), (12, 2, 20, 11), (22, 2, 30, 11)]
    selections = [override.selection for override in first["overrides"]]
    assert selections[:2] == [make_selection((), {"gender": "man"}), make_selection(["age"])]
    assert (22, 2, 30, 11) not in [region.box for region in first["only"]]
    assert (second["detections"], second["overrides"]) == ([], ())
    Path("out/a.png").unlink()
    assert call("anonymize", "in/a.png", "-o", "out", "--annotations", "faces.json")[0] == 0


def test_annotations_lack_photo(call, fake, photos):
    photos("a.png", "b.png")
    Path("faces.json").write_text(coco({}))
    code, out, err = call("anonymize", "a.png", "b.png", "-o", "out", "--annotations", "faces.json")
    assert (code, out) == (2, ["2 photos: 1 de-identified, 1 failed; 1 face: 1 replaced"])
    assert "b.png: is not in faces.json: add it, with no boxes if it has no faces" in err


def test_dataset_has_no_face_files(refused):
    assert "No such option: --boxes" in refused("dataset", "in", "-o", "out", "--boxes", "b.json")


def test_deprecated_files(call, fake, photos):
    photos("in/a.png", "in/b.png")
    Path("b.json").write_text(json.dumps([{"file_name": name, "bbox": [1, 2, 8, 9]} for name in ("a.png", "b.png")]))
    overrides = [{"image": "b.png", "box": [1, 2, 8, 9], "keep": [], "change": {"gender": "man"}}]
    Path("w.json").write_text(json.dumps(overrides))
    files = ("--boxes", "b.json", "--only", "b.json", "--wishes", "w.json")
    code, _, err = call("anonymize", "in", "-o", "out", *files)
    assert code == 0
    assert sum("deprecated" in line and "--wishes (use --annotations)" in line for line in err) == 1
    first, second = fake.calls
    assert [face.box for face in first["detections"]] == [face.box for face in first["only"]] == [(1, 2, 9, 11)]
    assert first["overrides"] == ()
    (override,) = second["overrides"]
    assert (override.place.box, override.selection) == ((1, 2, 9, 11), make_selection((), {"gender": "man"}))
    Path("out/a.png").unlink()
    assert call("anonymize", "in", "-o", "out", "--wishes", "w.json")[0] == 0  # b.png is there, though already done


@pytest.mark.parametrize("method", ["blur", "pixelate"])
def test_reversible_methods_warn(call, fake, photos, method):
    photos("in/a.png")
    _, _, err = call("anonymize", "in", "-o", "out", "--method", method)
    assert err[0].startswith("warning: ")
    assert "Newton" in err[0]


_ALL_REGIONS = " ".join(f"--keep-region {name}" for name in ("skin", "brows", "eyes", "nose", "mouth"))


@pytest.mark.parametrize(
    "options",
    [
        "--num-inference-steps 0", "--num-candidates 0", "--seed -1", "--batch-size x", "--map-blend 2",
        "--map-blend nan", "--format bmp", "--nonsense", "--store s", "--keep-people none", "--keep-region ears",
        _ALL_REGIONS, "--keep age,",
        "--key-file none", "--key-file key --seed 1", "--key-file key --method fill", "--key-file key --report key",
        "--key-file key --report key.people.sqlite", "--export-annotations no/such/folder/x.json",
        "--export-annotations a.png --overwrite", "--export-annotations r.json --report ./r.json",
        "--annotations b.json --export-annotations b.json --overwrite", "--annotations none.json",
        "--annotations a.png", "--annotations other.json", "--annotations special.json --method fill",
        "--annotations special.json --report special.json", "--keep expresion",
        "--keep age --change age=70", "--change age", "--change hair=red", "--change gender=tall",
        "--change gender=man --method fill", "--keep age --method blur",
    ],
)  # fmt: skip
def test_bad_options(call, refused, photos, options):
    photos("a.png")
    Path("b.json").write_text(coco())
    Path("special.json").write_text(coco({"keep": []}))
    Path("other.json").write_text(coco({"keep": []}, name="other.png"))
    call("keys", "new", "key")
    refused("anonymize", "a.png", "-o", "out", *options.split())


@pytest.mark.parametrize(
    "options",
    [
        "--boxes none.json", "--only a.png", "--wishes none.json", "--wishes other.json",
        "--boxes b.json --annotations b.json",
        "--wishes w.json --method fill", "--wishes w.json --report w.json",
        "--boxes b.json --export-boxes b.json --overwrite",
    ],
)  # fmt: skip
def test_bad_deprecated_files(refused, photos, options):
    photos("a.png")
    Path("b.json").write_text(coco())
    for path, name in (("w.json", "a.png"), ("other.json", "other.png")):
        Path(path).write_text(json.dumps([{"image": name, "box": [1, 2, 3, 4], "keep": []}]))
    refused("anonymize", "a.png", "-o", "out", *options.split(), warnings=1)


def test_unsupported_attribute(refused, fake, photos, monkeypatch):
    photos("in/a.png", "in/b.png")
    monkeypatch.setattr(fake, "check", raising(UsageError("age: this model reads no attributes")))
    assert refused("anonymize", "in", "-o", "out", "--keep", "age") == "error: age: this model reads no attributes"


def test_unknown_method_lists_methods(refused, photos):
    photos("a.png")
    line = refused("anonymize", "a.png", "-o", "out", "--method", "blurr")
    assert line.startswith("error: Invalid value for '--method': 'blurr' is not one of 'generate', 'fill',")
