"""Nodes as ComfyUI describes and executes them; `real_comfyui.py` compares the stand-in with ComfyUI itself."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deid_diffusion.comfyui import nodes
from deid_diffusion.errors import UsageError
from deid_diffusion.faces.compositing import FILL
from tests.comfyui.workflows import essence
from tests.failures import raising
from tests.fake_verifier import FakeVerifier
from tests.test_golden import OPTIONS, differences, picture

SNAPSHOT = json.loads(Path(__file__).with_name("object_info.json").read_text())
CORE = (slice(100, 160), slice(200, 240))  # inside the astronaut's face
INPUTS = {"model": "embedded", "method": "generate", "keep": "all", "change": "", "seed": 3}


def test_node_schemas_match_snapshot(comfy):
    """Ids, names, types and ranges: saved workflows depend on them."""
    described = {name: essence(node.GET_NODE_INFO_V1()) for name, node in comfy.nodes.items()}
    assert json.loads(json.dumps(described)) == SNAPSHOT


def test_inputs_and_outputs_have_tooltips(comfy):
    for node in comfy.nodes.values():
        schema = node.define_schema()
        assert schema.description.endswith(".")
        assert all(input_.settings["tooltip"] for input_ in schema.inputs)
        assert schema.category == "deid-diffusion"


def test_deidentify_node(comfy, image):
    inputs = {**INPUTS, "keep": "pose, age", "change": "expression=smiling, gaze=eyes open"}
    result, mask, record = comfy.nodes["DeidDeidentifyFaces"].execute(image, **inputs).args
    assert result.shape == image.shape
    assert mask.shape == image.shape[:3]
    outside = mask == 0
    assert torch.equal((result * 255).round()[outside], (image * 255).round()[outside])
    assert mask[0][CORE].mean() > 0.9
    lines = [json.loads(line) for line in record.splitlines()]
    assert [line["input"] for line in lines] == ["image 0", "image 1"]
    for face in (face for line in lines for face in line["faces"]):
        assert (face["action"], face["kept_attributes"]) == ("replaced", ["pose", "age"])
        assert face["changed_attributes"] == {"expression": "smiling", "gaze": "eyes open"}
    assert all(line["model"] == "builtin" and "dlib" in line["gate"] for line in lines)
    values = [value for value, _, _ in comfy.utils.shown]
    assert values == sorted(values)
    assert values[-1] == comfy.utils.shown[-1][1]
    assert sum(preview is not None for _, _, preview in comfy.utils.shown) == 2


def test_deidentify_node_equals_call(comfy, anonymizer):
    expected = np.asarray(anonymizer(picture(), OPTIONS).image)
    image = torch.from_numpy(picture().copy())[None].float() / 255
    result = comfy.nodes["DeidDeidentifyFaces"].execute(image, **{**INPUTS, "seed": OPTIONS.seed}).args[0]
    assert differences((result[0] * 255).round().numpy(), expected).max() <= 1


def test_deidentify_node_methods_and_faces(comfy, image, given):
    faces = comfy.nodes["DeidDetectFaces"].execute(image[:1]).args[0]
    inputs = {**INPUTS, "method": "fill"}
    result, _, record = comfy.nodes["DeidDeidentifyFaces"].execute(image[:1], **inputs, faces=faces).args
    assert ((result[0][CORE] * 255).round() == torch.tensor(FILL)).all()
    assert [face["detector"] for face in json.loads(record)["faces"]][:2] == ["given", "given"]
    with pytest.raises(UsageError, match="found in 1 pictures"):
        comfy.nodes["DeidDeidentifyFaces"].execute(image, **inputs, faces=faces)


def test_photo_without_faces_unchanged(comfy):
    empty = torch.full((1, 64, 80, 3), 0.2)
    result, mask, record = comfy.nodes["DeidDeidentifyFaces"].execute(empty, **INPUTS).args
    assert torch.equal((result * 255).round(), (empty * 255).round())
    assert not mask.any()
    assert json.loads(record)["status"] == "no_face"


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"keep": "agee"}, "did you mean age"),
        ({"change": "age"}, "expected NAME=WORD"),
        ({"change": "age=banana"}, "age cannot become"),
        ({"method": "fill", "keep": "age"}, "keeps and changes no attribute"),
    ],
)
def test_bad_selection_stops_workflow(comfy, unloaded, image, inputs, words):
    with pytest.raises(UsageError, match=words):
        comfy.nodes["DeidDeidentifyFaces"].execute(image, **{**INPUTS, **inputs})
    assert comfy.model_management.loads == []


@pytest.mark.parametrize("when", ["before a photo", "in a step"])
def test_interrupt(comfy, unloaded, image, when):
    interrupt = comfy.model_management.interrupt_current_processing
    if when == "before a photo":
        interrupt()
    else:
        comfy.utils.hooks.append(interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        comfy.nodes["DeidDeidentifyFaces"].execute(image, **INPUTS)
    assert len(comfy.utils.shown) == (when == "in a step")
    comfy.utils.hooks.clear()
    assert comfy.nodes["DeidDeidentifyFaces"].execute(image[:1], **INPUTS)
    assert comfy.model_management.loads == ["FaceDeidModel"]


@pytest.mark.parametrize("broken", ["EnsembleDetector.search", "Canvas.__init__"])
def test_failing_stage_stops_workflow(comfy, image, monkeypatch, broken):
    home = {"EnsembleDetector": "detection", "Canvas": "compositing"}[broken.split(".")[0]]
    monkeypatch.setattr(f"deid_diffusion.faces.{home}.{broken}", raising(RuntimeError("broken on purpose")))
    with pytest.raises(RuntimeError, match="on purpose"):
        comfy.nodes["DeidDeidentifyFaces"].execute(image, **INPUTS)


def test_fingerprint_without_seed(comfy):
    node = comfy.nodes["DeidDeidentifyFaces"]
    assert node.fingerprint_inputs(seed=-1, keep="all") != node.fingerprint_inputs(seed=-1, keep="all")
    assert node.fingerprint_inputs(seed=3) == node.fingerprint_inputs(seed=3)


def test_face_nodes(comfy, image, given, monkeypatch):
    faces, drawn, count = comfy.nodes["DeidDetectFaces"].execute(image).args
    assert count == 4
    assert (drawn != image).any()
    mapped = comfy.nodes["DeidFaceSemanticMap"].execute(image, faces, "the photo's", -1).args
    control, mask, labels = mapped
    assert control.shape == labels.shape == image.shape
    assert mask.shape == image.shape[:3]
    assert mask[0][CORE].min() == 1
    numbers = (labels * 255).round()
    assert set(numbers.unique().tolist()) >= {0, 1, 2}
    assert numbers.max() < 20
    crops, *pictures = (
        comfy.nodes["DeidCropFaces"].execute(image, faces, 96, "semantic_map", "another person's", 5).args
    )
    shapes = [tuple(batch.shape) for batch in pictures]
    assert shapes == [(4, 96, 96, 3), (4, 96, 96, 3), (4, 96, 96), (4, 96, 96, 3)]
    monkeypatch.setattr(nodes, "shared_verifier", FakeVerifier)
    monkeypatch.setattr(nodes, "shared_detector", lambda: lambda picture: [])
    result, mask, record = comfy.nodes["DeidStitchFaces"].execute(crops, torch.rand(4, 96, 96, 3)).args
    assert result.shape == image.shape
    outside = mask == 0
    assert torch.equal((result * 255).round()[outside], (image * 255).round()[outside])
    assert [len(json.loads(line)["faces"]) for line in record.splitlines()] == [2, 2]


def test_face_nodes_without_faces(comfy):
    empty = torch.full((2, 64, 64, 3), 0.2)
    faces, _, count = comfy.nodes["DeidDetectFaces"].execute(empty).args
    crops, erased, *_ = (
        comfy.nodes["DeidCropFaces"].execute(empty, faces, 64, "semantic_map", "another person's", -1).args
    )
    assert count == 0
    assert erased.shape == (1, 64, 64, 3)
    result, mask, _ = comfy.nodes["DeidStitchFaces"].execute(crops, torch.rand(1, 64, 64, 3)).args
    assert torch.equal((result * 255).round(), (empty * 255).round())
    assert not mask.any()
    text = [[torch.randn(1, 7, 192), {}]]
    apply = comfy.nodes["DeidApplyAttributes"]
    adapter = comfy.nodes["DeidLoadAttributeAdapter"].execute("embedded").args[0]
    assert apply.execute(text, text, adapter, crops, "all", "").args == (text, text)


def test_attribute_tokens(comfy, image, given):
    faces = comfy.nodes["DeidDetectFaces"].execute(image).args[0]
    crops = comfy.nodes["DeidCropFaces"].execute(image, faces, 96, "semantic_map", "another person's", 5).args[0]
    adapter = comfy.nodes["DeidLoadAttributeAdapter"].execute("embedded").args[0]
    text, nothing = [[torch.randn(1, 7, 192), {}]], [[torch.randn(1, 7, 192), {}]]
    apply = comfy.nodes["DeidApplyAttributes"]
    positive, negative = apply.execute(text, nothing, adapter, crops, "all", "").args
    count = adapter.attribute_adapter.null(1).shape[1]
    assert positive[0][0].shape == negative[0][0].shape == (4, 7 + count, 192)
    other = apply.execute(text, nothing, adapter, crops, "pose", "").args[0]
    assert not torch.equal(positive[0][0][:, 7:], other[0][0][:, 7:])
    assert np.isfinite(positive[0][0].numpy()).all()
