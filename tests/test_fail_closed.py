"""Failures at any stage and at any time: no original face is left under an output's name."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.batch import photos
from deid_diffusion.batch.planning import make_plan
from deid_diffusion.faces.compositing import FILL
from deid_diffusion.options import Options
from tests.given_faces import CORE, OTHER_CORE

CORES = (CORE, OTHER_CORE)


def stages(names: dict[str, str]) -> tuple[str, ...]:
    """Return dotted paths of functions and methods, given as module -> names."""
    return tuple(f"deid_diffusion.{module}.{name}" for module in names for name in names[module].split())


STAGES = stages(
    {
        "anonymizer": "analyse_face select_faces match_overrides FaceGenerator.__call__ finalize Anonymizer.encode",
        "faces.finalization": "cover_residual_faces",
        "batch.photos": "write_atomic",
        "faces.face": "Canvas union_mask erase",
        "generation": "prepare_inputs choose_donors generate attribute_costs draw_donors reshape_mesh light_texture "
        "render_person match_camera read_light select_light extract neutralize_mesh filter_features draw_control "
        "keep_tint paste_or_cover",
        "faces.compositing": "warp Canvas.paste Canvas.paste_patch",
        "pipelines.face_deid.FaceDeidPipeline": "__call__ encode_attributes subspace _tokens",
        "io": "images.encode images.check_target files.os.fsync",
    }
)
"""Functions and methods that every photo passes."""
REACHED: list[Exception] = []
"""Errors that were really raised: a stage that no photo passes would prove nothing."""
ERRORS = (RuntimeError("out of luck"), MemoryError(), ValueError("NaN"), OSError(28, "no space"), KeyError("x"))


@pytest.fixture
def photo(astronaut: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "a.png"
    path.parent.mkdir()
    Image.fromarray(astronaut).save(path)
    return path


def output(photo: Path) -> Path:
    return photo.parent.parent / "out"


def process(photo: Path, model: Anonymizer, options: Options | None = None) -> list[photos.JobResult]:
    """Process the photo's folder; each face is a batch of its own, so that two faces pass every stage twice."""
    plan = make_plan([photo.parent], output(photo), overwrite=True)
    return list(photos.run(plan, lambda: model, photos.Settings(options or Options(fill_colour="grey", batch_size=1))))


def leaks(photo: Path, original: np.ndarray) -> list[str]:
    """Return the names of results in which an original face still shows."""
    names = []
    for path in output(photo).rglob("*.png"):
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        if any(np.abs(pixels[core] - original[core]).mean() < 5 for core in CORES):
            names.append(path.name)
    return names


def breaking(error: Exception, function: Callable[..., object], at: int) -> Callable[..., object]:
    """Return the function, but its call number `at` (from 0) and all later ones fail."""
    calls = iter(range(10**9))

    def broken(*args: object, **options: object) -> object:
        if next(calls) >= at:
            REACHED.append(error)
            raise error
        return function(*args, **options)

    return broken


def break_stage(patch: pytest.MonkeyPatch, stage: str, error: Exception, at: int) -> None:
    """Let a function or method, named by its dotted path, fail from call number `at` on."""
    REACHED.clear()
    patch.setattr(stage, breaking(error, resolve_name(stage), at))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("at", [0, 1])
def test_exception_at_any_stage(stage, at, tiny, photo, astronaut, monkeypatch):
    """The error is raised for the first face or photo that passes a stage, or for the second."""
    if at:
        shutil.copy(photo, photo.with_name("b.png"))
    break_stage(monkeypatch, stage, ERRORS[(STAGES.index(stage) + at) % len(ERRORS)], at)
    outcomes = process(photo, tiny)
    assert REACHED
    assert leaks(photo, astronaut) == []
    written = {path.name for path in output(photo).rglob("*.png")}
    assert written == {Path(outcome.report.input).name for outcome in outcomes if outcome.report.status == "done"}
    assert all(outcome.message is None or "\n" not in outcome.message for outcome in outcomes)


@pytest.mark.parametrize("part", ["reference", "verify"])
def test_failing_verifier_covers_all(part, tiny, photo, astronaut):
    setattr(tiny.verifier, part, breaking(RuntimeError("no weights"), getattr(tiny.verifier, part), 0))
    (outcome,) = process(photo, tiny)
    assert [face.action for face in outcome.report.faces] == ["covered", "covered"]
    assert leaks(photo, astronaut) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.5])
def test_flat_or_nan_generator_covers_all(value, tiny, photo, monkeypatch):
    def broken(self: object, **inputs: object) -> tuple[np.ndarray, None]:
        return np.full((len(inputs["image"]), 32, 32, 3), value, np.float32), None

    monkeypatch.setattr(type(tiny.pipeline), "__call__", broken)
    (outcome,) = process(photo, tiny)
    assert [face.action for face in outcome.report.faces] == ["covered", "covered"]
    pixels = np.asarray(Image.open(output(photo) / "a.png"))
    assert all((pixels[core] == FILL).all() for core in CORES)


@pytest.mark.parametrize("method", ["fill", "blur", "pixelate"])
def test_simple_methods_fail_closed(method, tiny, photo, astronaut, monkeypatch):
    process(photo, tiny, Options(method=method))
    pixels = np.asarray(Image.open(output(photo) / "a.png"))
    assert all((pixels[core] != astronaut[core]).any(-1).mean() > 0.8 for core in CORES)
    (output(photo) / "a.png").unlink()
    break_stage(monkeypatch, "deid_diffusion.anonymizer.apply_method", MemoryError(), 0)
    (outcome,) = process(photo, tiny, Options(method=method))
    assert outcome.report.status == "failed"
    assert not list(output(photo).rglob("*.png"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_process_leaves_no_face(photo):
    """A run is killed at moments spread evenly over it; its results are complete and show no original face."""
    shutil.copy(photo, photo.with_name("b.png"))
    script = Path(__file__).with_name("killed_photos.py")
    arguments = [sys.executable, "-m", f"tests.{script.stem}", str(photo)]
    result = subprocess.run(arguments, cwd=script.parents[1], capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr
