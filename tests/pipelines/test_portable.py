import json
from pathlib import Path

from deid_diffusion.pipelines.portable import write_portable


def test_own_models_get_shims_and_parts_forget_where_they_came_from(tmp_path: Path) -> None:
    index = {
        "_class_name": "FaceDeidPipeline",
        "image_encoder": ["deid_diffusion.models.face_encoder", "FaceEncoder"],
        "attribute_adapter": [None, None],
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for part in ("image_encoder", "unet"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps({"_name_or_path": "/home/me", "size": 3}))
    write_portable(tmp_path)
    written = json.loads((tmp_path / "model_index.json").read_text())
    assert written["image_encoder"] == ["face_encoder", "FaceEncoder"]
    assert written["attribute_adapter"] == [None, None]
    assert written["unet"] == index["unet"]
    assert "import FaceEncoder" in (tmp_path / "image_encoder" / "face_encoder.py").read_text()
    assert json.loads((tmp_path / "unet" / "config.json").read_text()) == {"size": 3}
