"""Without mediapipe and controlnet_aux, the package imports, and errors name the package in one line."""

import doctest
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from deid_diffusion import errors
from deid_diffusion.errors import DeidError
from deid_diffusion.faces import detectors
from deid_diffusion.faces.landmarks import FaceMesh
from tests.given_faces import FACE, given_anonymizer

INSTALL = r"pip install 'mediapipe>=0\.10\.14,<0\.10\.30'$"
IMPORT_ALL = """
import importlib.abc, pkgutil, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mediapipe", "controlnet_aux"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import deid_diffusion
for name in deid_diffusion.__all__:
    getattr(deid_diffusion, name)
for package in ("attributes", "faces", "identity", "models", "pipelines"):
    path = importlib.import_module(f"deid_diffusion.{package}").__path__
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"deid_diffusion.{package}.{module.name}")
"""


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch):
    packages = ("mediapipe", "controlnet_aux")
    for name in [*packages, *(name for name in sys.modules if name.partition(".")[0] in packages)]:
        monkeypatch.setitem(sys.modules, name, None)
    detectors._graph.cache_clear()
    yield
    detectors._graph.cache_clear()


def test_imports_without_optional_packages():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_missing_mediapipe(blocked):
    picture = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(DeidError, match=rf"^the face mesh needs a package that is missing here: {INSTALL}"):
        FaceMesh()(picture)
    with pytest.raises(DeidError, match=rf"^face detection needs a package that is missing here: {INSTALL}"):
        detectors.MediapipeDetector()(picture)


def test_missing_mediapipe_covers_no_face(blocked, tiny_pipeline, astronaut):
    with pytest.raises(DeidError, match=INSTALL):
        given_anonymizer(tiny_pipeline, FACE, landmarker=None)(astronaut)


def test_missing_package_on_command_line(blocked, call, tmp_path, astronaut):
    Image.fromarray(astronaut).save(tmp_path / "photo.png")
    code, _, lines = call("inspect", str(tmp_path / "photo.png"), "-o", str(tmp_path / "seen.png"))
    assert (code, len(lines)) == (2, 1)
    assert lines[0].endswith("pip install 'mediapipe>=0.10.14,<0.10.30'")


def test_docstring_example():
    assert doctest.testmod(errors, optionflags=doctest.IGNORE_EXCEPTION_DETAIL).failed == 0
