"""The path of a pseudonym store."""

from pathlib import Path

import pytest


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "a#b %20?.sqlite"  # characters with a meaning in SQLite's URIs
