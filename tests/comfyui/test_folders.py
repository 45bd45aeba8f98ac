from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture
def models(comfy: SimpleNamespace, tmp_path: Path) -> Path:
    for name in ("deid_diffusion/whole", "attribute_adapters/adapter", "deid_diffusion/embedded"):
        (tmp_path / name / "attribute_adapter").mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text("{}")
        (tmp_path / name / "attribute_adapter" / "config.json").write_text("{}")
    for name in ("deid_diffusion/no_adapter", "attribute_adapters/no_adapter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text("{}")
    (tmp_path / "deid_diffusion" / "no_model").mkdir()
    (tmp_path / "deid_diffusion" / "a_file.txt").write_text("")
    return tmp_path


def test_folders_that_hold_a_model_are_listed(models: Path) -> None:
    from deid_diffusion.comfyui import folders

    assert folders.names("deid_diffusion") == ["embedded", "no_adapter", "whole"]
    assert folders.names("attribute_adapters") == ["embedded", "adapter", "whole"]
    assert folders.place("attribute_adapters", "whole") == models / "deid_diffusion" / "whole"
    assert folders.place("deid_diffusion", "embedded").name == "builtin"


@pytest.mark.parametrize("name", ["gone", "../attribute_adapters/adapter", ""])
def test_no_other_name_leads_anywhere(models: Path, name: str) -> None:
    from deid_diffusion.comfyui import folders

    with pytest.raises(FileNotFoundError, match="there are embedded, no_adapter, whole"):
        folders.place("deid_diffusion", name)


def test_without_any_folder_the_embedded_model_is_there(comfy: SimpleNamespace) -> None:
    from deid_diffusion.comfyui import folders

    assert folders.names("attribute_adapters") == ["embedded"]
