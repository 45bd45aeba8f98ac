"""Fixture of the tests of data-set runs."""

from pathlib import Path

import pytest


@pytest.fixture
def workdir(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory with an empty folder `in`; other processes can import the fakes."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    Path("in").mkdir()
    return workdir
