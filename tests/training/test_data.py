from pathlib import Path

import pytest

from deid_diffusion.training.data import FaceCache


def test_a_folder_that_is_no_cache_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="deid-diffusion prepare"):
        FaceCache(tmp_path)
