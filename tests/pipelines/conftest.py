"""The tiny pipeline as a folder, and what it paints."""

from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.pipelines.face_deid import FaceDeidPipeline
from tests.pipelines.faces import inputs, run


@pytest.fixture(scope="session")
def saved(tiny_pipeline: FaceDeidPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``save_pretrained`` writes it; nobody changes it."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny_pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def plain(tiny_pipeline: FaceDeidPipeline) -> np.ndarray:
    """(3, 32, 32, 3), of `inputs` and nothing else."""
    return run(tiny_pipeline, inputs())
