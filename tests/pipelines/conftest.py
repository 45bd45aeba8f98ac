"""The tiny pipeline as a folder and as a publication, and its output."""

from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.pipelines.face_deid import FaceDeidPipeline
from deid_diffusion.pipelines.publishing import write_publication
from tests.pipelines.faces import inputs, run


@pytest.fixture(scope="session")
def saved(tiny_pipeline: FaceDeidPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``save_pretrained`` writes; tests do not change it."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny_pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def published(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``publish`` writes; tests do not change it."""
    folder = tmp_path_factory.mktemp("published") / "model"
    write_publication(saved, folder, license="apache-2.0", name="me/model")
    return folder


@pytest.fixture(scope="session")
def plain(tiny_pipeline: FaceDeidPipeline) -> np.ndarray:
    """(3, 32, 32, 3), of `inputs` alone."""
    return run(tiny_pipeline, inputs())
