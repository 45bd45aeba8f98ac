import doctest
import logging
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, LCMScheduler
from PIL import Image
from safetensors.torch import load_file

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.errors import DeidError
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.semantic_map import draw_mediapipe_face, mean_mesh
from deid_diffusion.models.attribute_adapter import AttributeAdapter
from deid_diffusion.options import Options
from deid_diffusion.pipelines import loading, presets
from deid_diffusion.pipelines.face_deid import FaceDeidPipeline
from deid_diffusion.pipelines.loading import load_pipeline
from deid_diffusion.pipelines.presets import CLIP, FACE_LINES, INPAINTING, LCM_LORA, PRESETS, find_preset
from tests.fake_verifier import FakeVerifier
from tests.tiny_hub import add_to_cache, fill_cache


def test_examples() -> None:
    assert doctest.testmod(presets).failed == 0


def test_repositories_pinned() -> None:
    repositories = [repository for preset in PRESETS.values() for repository in preset.repositories if repository.name]
    assert all(len(repository.revision or "") == 40 and repository.licence for repository in repositories)
    assert all(name.endswith(".safetensors") for repository in repositories for name in repository.weights)


def test_find_preset() -> None:
    assert {find_preset(name) for name in ("builtin", "me/sd15", "sd15/x", "", "./sd15", "other=sd15")} == {None}
    preset = find_preset("sd15=me/inpainting")
    assert preset is not None
    assert (preset.base.name, preset.base.revision) == ("me/inpainting", None)
    assert preset.base.weights == INPAINTING.weights
    assert preset.controlnet is presets.FACE_LINES
    messages = {"sd15-semantic": "needs a source: --model sd15-semantic=FOLDER", "sd15-semantic=": "needs a source"}
    for model, words in (messages | {"sd15=": "nothing after ="}).items():
        with pytest.raises(DeidError, match=words):
            find_preset(model)


@pytest.fixture
def full_cache(hub: dict[str, Path], hub_cache: Path) -> Path:
    fill_cache(hub_cache, hub)
    return hub_cache


@pytest.fixture
def trained(hub: dict[str, Path], tmp_path: Path) -> Path:
    """A folder as train_face_deid.py writes it."""
    folder = tmp_path / "trained"
    ControlNetModel.from_pretrained(hub[FACE_LINES.name] / "diffusion_sd15").save_pretrained(folder / "controlnet")
    AttributeAdapter(16, 6, 4, 16).save_pretrained(folder / "attribute_adapter")
    return folder


@pytest.fixture(scope="module")
def sd15(hub: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> FaceDeidPipeline:
    """The preset, from a full cache."""
    cache = tmp_path_factory.mktemp("full")
    fill_cache(cache, hub)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        return load_pipeline("sd15", torch.float32)


def paint(pipeline: FaceDeidPipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    crops, mask = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    features = pipeline.encode_attributes(crops, [np.ones((32, 32), np.uint8)])
    given = {"image": crops, "mask_image": mask, "control_image": crops, "attribute_features": features}
    return pipeline(**given, num_inference_steps=2, generator=torch.Generator().manual_seed(1), output_type="np").images


def test_sd15(sd15: FaceDeidPipeline, hub: dict[str, Path]) -> None:
    assert (sd15.crop_size, sd15.config.control, sd15.config.default_steps) == (32, "mediapipe_face", 25)
    assert isinstance(sd15.scheduler, DDIMScheduler)
    assert sd15.safety_checker is sd15.attribute_adapter is None
    assert sd15.reads_attributes
    assert sd15.embed_phrases(["a man"]).shape == (1, 16)
    assert sd15.unet.dtype == sd15.image_encoder.dtype == torch.float32
    half = load_file(hub[INPAINTING.name] / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert torch.equal(sd15.unet.conv_in.weight, half["conv_in.weight"].float())
    half = load_file(hub[INPAINTING.name] / "text_encoder" / "model.fp16.safetensors")
    name = "embeddings.token_embedding.weight"  # with or without a prefix, as transformers will
    (loaded,) = (value for key, value in sd15.text_encoder.state_dict().items() if key.endswith(name))
    assert torch.equal(loaded, half[f"text_model.{name}"].float())
    assert paint(sd15).shape == (1, 32, 32, 3)


def test_saved_preset(sd15: FaceDeidPipeline, tmp_path: Path) -> None:
    sd15.save_pretrained(tmp_path / "saved")
    again = load_pipeline(str(tmp_path / "saved"), torch.float32)
    assert again.config.control == "mediapipe_face"
    assert np.abs(paint(again) - paint(sd15)).max() < 1e-5


@pytest.mark.usefixtures("full_cache")
def test_sd15_lcm(sd15: FaceDeidPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = load_pipeline("sd15-lcm", torch.float32)
    assert isinstance(fast.scheduler, LCMScheduler)
    assert fast.config.default_steps == 8
    before, after = sd15.unet.state_dict(), fast.unet.state_dict()
    assert before.keys() == after.keys()
    changed = {name.split(".")[-2] for name, value in after.items() if not torch.equal(before[name], value)}
    assert changed == {"to_q", "to_v", "conv1"}
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(DeidError, match=r"a LoRA needs a package that is missing here: pip install 'peft'$"):
        load_pipeline("sd15-lcm", torch.float32)


def test_sd15_semantic(full_cache: Path, trained: Path) -> None:
    pipeline = load_pipeline(f"sd15-semantic={trained}", torch.float32)
    assert pipeline.config.control == "semantic_map"
    assert paint(pipeline).shape == (1, 32, 32, 3)
    add_to_cache(full_cache, "me/trained", trained)
    again = load_pipeline("sd15-semantic=me/trained", torch.float32)
    assert np.abs(paint(again) - paint(pipeline)).max() < 1e-5
    LCMScheduler().save_pretrained(trained / "scheduler")  # of a distilled model
    assert isinstance(load_pipeline(f"sd15-semantic={trained}", torch.float32).scheduler, LCMScheduler)


def test_base_folder(hub: dict[str, Path], hub_cache: Path) -> None:
    for repository in (FACE_LINES, CLIP):
        add_to_cache(hub_cache, repository.name, hub[repository.name], repository.revision or "")
    pipeline = load_pipeline(f"sd15={hub[INPAINTING.name]}", torch.float16)
    assert pipeline.unet.dtype == pipeline.vae.dtype == pipeline.phrase_encoder.dtype == torch.float16
    with pytest.raises(DeidError, match=r"without ControlNet: put sd15= before its name$"):
        load_pipeline(str(hub[INPAINTING.name]), torch.float32)


def test_not_downloaded(hub: dict[str, Path], hub_cache: Path, tmp_path: Path) -> None:
    add_to_cache(hub_cache, INPAINTING.name, hub[INPAINTING.name], INPAINTING.revision or "")
    with pytest.raises(DeidError, match=f"hf download {CLIP.name} .* --revision {CLIP.revision}"):
        load_pipeline("sd15", torch.float32)
    with pytest.raises(DeidError, match=r"run: hf download me/nothing .*; or use builtin, sd15, sd15-lcm"):
        load_pipeline("me/nothing", torch.float32)
    with pytest.raises(DeidError, match=rf"^{tmp_path}: lacks controlnet/config\.json"):  # checked first
        load_pipeline(f"sd15-semantic={tmp_path}", torch.float32)
    with pytest.raises(DeidError, match=r"^model no/such/model: no such folder, and not a valid hub id; or"):
        load_pipeline("no/such/model", torch.float32)


@pytest.mark.usefixtures("full_cache")
def test_other_family(trained: Path) -> None:
    AttributeAdapter(16, 6, 4, 24).save_pretrained(trained / "attribute_adapter")
    with pytest.raises(DeidError, match="AttributeAdapter has text embeddings of width 24, this checkpoint 16"):
        load_pipeline(f"sd15-semantic={trained}", torch.float32)


def test_licences_logged_once(sd15: FaceDeidPipeline, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(presets, "build_preset", lambda preset, dtype: sd15)
    loading._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "deid_diffusion"):
        for _ in range(2):
            load_pipeline("sd15-lcm", torch.float32)
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("deid_diffusion")]
    for repository in (INPAINTING, FACE_LINES, CLIP, LCM_LORA):
        assert f"{repository.name} ({repository.licence})" in line
    anonymizer = Anonymizer.from_pretrained("sd15", device="cpu")
    assert (anonymizer.pipeline, anonymizer.model_name) == (sd15, "sd15")


def test_controlnet_sees_lines(sd15: FaceDeidPipeline, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of another face's proportions, in the colours that CrucibleAI's ControlNet knows."""
    control_images, real = [], type(sd15.controlnet).forward

    def forward(self, *given: object, controlnet_cond: torch.Tensor, **options: object) -> object:
        control_images.append(controlnet_cond)
        return real(self, *given, controlnet_cond=controlnet_cond, **options)

    monkeypatch.setattr(type(sd15.controlnet), "forward", forward)
    face = Detection((170.0, 60.0, 270.0, 190.0), 0.9, "given")
    model = Anonymizer(sd15, detector=lambda image: [face], verifier=FakeVerifier())
    result = model(astronaut, Options(seed=1, num_inference_steps=1, keep=("expression", "age")))
    assert [record.action for record in result.faces] == ["replaced"]
    colours = {tuple(colour) for colour in (control_images[0][0] * 255).round().byte().flatten(1).T.tolist()}
    known = draw_mediapipe_face(mean_mesh(512), 512).reshape(-1, 3)
    assert {(0, 0, 0), (10, 200, 10)} < colours <= {tuple(colour) for colour in known.tolist()}


@pytest.mark.usefixtures("hub_cache")
def test_cli_names_download(call, tmp_path: Path, astronaut: np.ndarray) -> None:
    Image.fromarray(astronaut).save(tmp_path / "photo.png")
    arguments = ("anonymize", str(tmp_path / "photo.png"), "-o", str(tmp_path / "out"), "--device", "cpu", "--model")
    for model, words in (("sd15", f"run: hf download {INPAINTING.name}"), ("sd15-semantic", "needs a source")):
        code, _, errors = call(*arguments, model)
        assert code == 2
        (line,) = [line for line in errors if line.startswith("error: ")]
        assert words in line
    assert not list((tmp_path / "out").glob("*"))
