import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deid_diffusion.errors import DeidError
from deid_diffusion.models.face_encoder import FaceEncoder
from deid_diffusion.pipelines.face_deid import FaceDeidPipeline
from tests.pipelines.faces import generators, inputs, run


def test_no_masked_pixel_has_any_influence(tiny_pipeline: FaceDeidPipeline) -> None:
    given = inputs()
    other = dict(given, image=torch.where(given["mask_image"] > 0.5, torch.rand(3, 3, 32, 32), given["image"]))
    assert not torch.equal(given["image"], other["image"])
    assert np.array_equal(run(tiny_pipeline, given), run(tiny_pipeline, other))


@pytest.mark.parametrize("name", ["image", "control_image", "attribute_features"])
def test_every_condition_has_an_influence(tiny_pipeline: FaceDeidPipeline, name: str) -> None:
    given = inputs()
    changed = dict(given, **{name: given[name].flip(-1)})
    assert np.abs(run(tiny_pipeline, given) - run(tiny_pipeline, changed)).max() > 1e-3


def test_the_seed_alone_decides_between_results(tiny_pipeline: FaceDeidPipeline) -> None:
    given = inputs()
    assert np.array_equal(run(tiny_pipeline, given), run(tiny_pipeline, given))
    assert np.abs(run(tiny_pipeline, given) - run(tiny_pipeline, given, generator=generators((7, 8, 9)))).max() > 1e-3


def test_a_batch_equals_one_at_a_time(tiny_pipeline: FaceDeidPipeline) -> None:
    """To 1e-4 of a full scale of 1, float32's rounding through another batch size."""
    given = inputs()
    together = run(tiny_pipeline, given)
    for k in range(3):
        one = {name: value[k : k + 1] for name, value in given.items()}
        alone = run(tiny_pipeline, one, generator=generators([k]))
        assert np.abs(alone[0] - together[k]).max() < 1e-4


def test_attributes_can_be_left_out(tiny_pipeline: FaceDeidPipeline) -> None:
    given = {name: value for name, value in inputs().items() if name != "attribute_features"}
    assert run(tiny_pipeline, given).shape == (3, 32, 32, 3)


def test_words_are_read_by_the_encoder_that_shares_the_images_space(tiny_pipeline: FaceDeidPipeline) -> None:
    vectors = tiny_pipeline.embed_phrases(["a man", "a woman"])
    assert vectors.shape == (2, 16)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2))
    parts = {**tiny_pipeline.components, "phrase_encoder": None}
    with pytest.raises(DeidError, match="phrase_encoder="):  # the generator's text encoder has no such projection
        FaceDeidPipeline(**parts).embed_phrases(["a man"])
    embedded = FaceDeidPipeline(**{**parts, "image_encoder": FaceEncoder(16, 8)})
    assert not torch.allclose(embedded.embed_phrases(["a man", "a woman"]), vectors)


def test_subspaces_are_computed_once(tiny_pipeline: FaceDeidPipeline) -> None:
    assert tiny_pipeline.subspace(["freckles"]) is tiny_pipeline.subspace(["freckles"])
    assert tiny_pipeline.subspace(["freckles"]).words["freckles"] == ("freckles",)


def test_unequal_counts_are_refused_by_name(tiny_pipeline: FaceDeidPipeline) -> None:
    given = inputs()
    given["control_image"] = given["control_image"][:2]
    with pytest.raises(ValueError, match="2 control_image"):
        run(tiny_pipeline, given)


def test_an_unknown_argument_is_refused(tiny_pipeline: FaceDeidPipeline) -> None:
    with pytest.raises(TypeError, match="strenght"):
        tiny_pipeline(**inputs(), strenght=0.5)


def test_saved_names_are_portable(saved: Path) -> None:
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "FaceDeidPipeline"]
    assert index["attribute_adapter"] == ["attribute_adapter", "AttributeAdapter"]
    assert not any("deid_diffusion." in json.dumps(value) for value in index.values())


def test_a_pipeline_without_adapter_works_and_says_so(tmp_path: Path) -> None:
    from tests.conftest import make_tiny_pipeline

    pipeline = make_tiny_pipeline(tmp_path, with_adapter=False)
    given = inputs()
    with pytest.raises(ValueError, match="no attribute_adapter"):
        run(pipeline, given)
    del given["attribute_features"]
    assert run(pipeline, given).shape == (3, 32, 32, 3)
    pipeline.save_pretrained(tmp_path / "model")
    again = FaceDeidPipeline.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert again.attribute_adapter is None
