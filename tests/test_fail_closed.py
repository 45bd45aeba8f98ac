"""Whatever breaks, and whenever: no original face stands under an output's name."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.batch import photos
from deid_diffusion.batch.planning import make_plan
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.compositing import FILL
from deid_diffusion.options import Options
from tests.fake_verifier import FakeVerifier

FACE = Detection((170.0, 60.0, 270.0, 190.0), 0.9, "given")
OTHER = Detection((300.0, 300.0, 360.0, 380.0), 0.8, "given")
CORES = ((slice(90, 170), slice(190, 250)), (slice(315, 365), slice(312, 348)))  # inside the two, whatever the masks

#: Everything that a photo passes on its way, as (module, name) or a method of the pipeline's class.
STATIONS = (
    "deid_diffusion.anonymizer.analyse_face",
    "deid_diffusion.anonymizer.select_faces",
    "deid_diffusion.anonymizer.match_overrides",
    "deid_diffusion.anonymizer.FaceGenerator.__call__",
    "deid_diffusion.anonymizer.finalize",
    "deid_diffusion.faces.finalization.cover_residual_faces",
    "deid_diffusion.anonymizer.Anonymizer.encode",
    "deid_diffusion.batch.photos.write_atomic",
    "deid_diffusion.faces.face.Canvas",
    "deid_diffusion.faces.face.union_mask",
    "deid_diffusion.faces.face.erase",
    "deid_diffusion.generation.prepare_inputs",
    "deid_diffusion.generation.choose_donors",
    "deid_diffusion.generation.generate",
    "deid_diffusion.generation.attribute_costs",
    "deid_diffusion.generation.draw_donors",
    "deid_diffusion.generation.reshape_mesh",
    "deid_diffusion.generation.light_texture",
    "deid_diffusion.generation.render_person",
    "deid_diffusion.generation.match_camera",
    "deid_diffusion.generation.read_light",
    "deid_diffusion.generation.select_light",
    "deid_diffusion.generation.extract",
    "deid_diffusion.generation.neutralize_mesh",
    "deid_diffusion.generation.filter_features",
    "deid_diffusion.generation.draw_control",
    "deid_diffusion.generation.keep_tint",
    "deid_diffusion.generation.paste_or_cover",
    "deid_diffusion.faces.compositing.warp",
    "deid_diffusion.faces.compositing.Canvas.paste",
    "deid_diffusion.faces.compositing.Canvas.paste_patch",
    "deid_diffusion.pipelines.face_deid.FaceDeidPipeline.__call__",
    "deid_diffusion.pipelines.face_deid.FaceDeidPipeline.encode_attributes",
    "deid_diffusion.pipelines.face_deid.FaceDeidPipeline.subspace",
    "deid_diffusion.pipelines.face_deid.FaceDeidPipeline._tokens",
    "deid_diffusion.io.images.encode",
    "deid_diffusion.io.images.check_target",
    "deid_diffusion.io.files.os.fsync",
)
REACHED: list[Exception] = []  # what was really raised: a station that no photo passes would prove nothing
ERRORS = (RuntimeError("out of luck"), MemoryError(), ValueError("NaN"), OSError(28, "no space"), KeyError("x"))


@pytest.fixture
def tiny(tiny_pipeline) -> Anonymizer:
    """Two faces, each in a batch of its own, so that every station of a face is passed twice."""
    detect = lambda image: [FACE, OTHER]  # noqa: E731
    return Anonymizer(tiny_pipeline, detector=detect, landmarker=lambda crop: None, verifier=FakeVerifier())


@pytest.fixture
def photo(astronaut: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "a.png"
    path.parent.mkdir()
    Image.fromarray(astronaut).save(path)
    return path


def process(photo: Path, model: Anonymizer, options: Options | None = None) -> list[photos.JobResult]:
    plan = make_plan([photo.parent], photo.parent.parent / "out", overwrite=True)
    return list(photos.run(plan, lambda: model, photos.Settings(options or Options(fill_colour="grey", batch_size=1))))


def leaks(photo: Path, original: np.ndarray) -> list[str]:
    """Files under the output folder in which a face still shows."""
    bad = []
    for path in (photo.parent.parent / "out").rglob("*"):
        if path.suffix != ".png":
            continue
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        if any(np.abs(pixels[core] - original[core]).mean() < 5 for core in CORES):
            bad.append(path.name)
    return bad


def breaking(error: Exception, real: Callable[..., object], at: int) -> Callable[..., object]:
    """``real``, but its call number ``at`` (from 0) and all later ones fail."""
    calls = iter(range(10**9))

    def broken(*args: object, **given: object) -> object:
        if next(calls) >= at:
            REACHED.append(error)
            raise error
        return real(*args, **given)

    return broken


@pytest.mark.parametrize("station", STATIONS)
@pytest.mark.parametrize("at", [0, 1])
def test_exception_at_any_stage(
    station: str, at: int, tiny: Anonymizer, photo: Path, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each station is passed by a first face or photo, and by a second one; the error is raised for sure."""
    shutil.copy(photo, photo.with_name("b.png"))
    error = ERRORS[(STATIONS.index(station) + at) % len(ERRORS)]
    owner, _, name = station.rpartition(".")
    monkeypatch.setattr(station, breaking(error, getattr(resolve(owner), name), at))
    REACHED.clear()
    outcomes = process(photo, tiny)
    assert REACHED
    assert leaks(photo, astronaut) == []
    written = {path.name for path in (photo.parent.parent / "out").rglob("*.png")}
    assert written == {Path(outcome.report.input).name for outcome in outcomes if outcome.report.status == "done"}
    assert all(outcome.message is None or "\n" not in outcome.message for outcome in outcomes)


def resolve(dotted: str) -> object:
    """The module, class or module's module that a dotted path names."""
    import importlib

    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(dotted)


@pytest.mark.parametrize("part", ["reference", "verify"])
def test_failing_verifier_covers_all(part: str, tiny: Anonymizer, photo: Path, astronaut: np.ndarray) -> None:
    setattr(tiny.verifier, part, breaking(RuntimeError("no weights"), getattr(tiny.verifier, part), 0))
    (outcome,) = process(photo, tiny)
    assert [face.action for face in outcome.report.faces] == ["covered", "covered"]
    assert leaks(photo, astronaut) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.5])
def test_flat_or_nan_generator_covers_all(
    value: float, tiny: Anonymizer, photo: Path, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, **given: object) -> tuple[np.ndarray, None]:
        return np.full((len(given["image"]), 32, 32, 3), value, np.float32), None

    monkeypatch.setattr(type(tiny.pipeline), "__call__", broken)
    (outcome,) = process(photo, tiny)
    assert [face.action for face in outcome.report.faces] == ["covered", "covered"]
    pixels = np.asarray(Image.open(photo.parent.parent / "out" / "a.png"))
    assert all((pixels[core] == FILL).all() for core in CORES)


@pytest.mark.parametrize("method", ["fill", "blur", "pixelate"])
def test_simple_methods_fail_closed(
    method: str, tiny: Anonymizer, photo: Path, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    process(photo, tiny, Options(method=method))
    pixels = np.asarray(Image.open(photo.parent.parent / "out" / "a.png"))
    assert all((pixels[core] != astronaut[core]).any(-1).mean() > 0.8 for core in CORES)
    (photo.parent.parent / "out" / "a.png").unlink()
    monkeypatch.setattr("deid_diffusion.anonymizer.apply_method", breaking(MemoryError(), lambda: None, 0))
    (outcome,) = process(photo, tiny, Options(method=method))
    assert outcome.report.status == "failed"
    assert not list((photo.parent.parent / "out").rglob("*.png"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_process_leaves_no_face(photo: Path) -> None:
    """Twenty runs, each killed at another moment; what was written is whole and shows no original face."""
    for index in range(2):
        (photo.parent / f"b{index}.png").write_bytes(photo.read_bytes())
    script = Path(__file__).with_name("killed_photos.py")
    arguments = [sys.executable, "-m", f"tests.{script.stem}", str(photo)]
    result = subprocess.run(arguments, cwd=script.parents[1], capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr
