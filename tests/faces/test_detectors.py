"""Freeing the input size of an ONNX model."""

from __future__ import annotations

import numpy as np
import pytest

from deid_diffusion.faces.detectors import INPUT, _model_file, _session, with_free_shape


def test_the_freed_model_takes_any_size():
    session = _session()
    assert [(given.name, given.shape) for given in session.get_inputs()] == [(INPUT, ["batch", 3, "height", "width"])]
    for height, width in [(32, 64), (96, 32)]:
        heat, *_ = session.run(None, {INPUT: np.zeros((1, 3, height, width), np.float32)})
        assert heat.shape == (1, 1, height // 4, width // 4)


def test_a_missing_input_is_refused():
    with pytest.raises(ValueError, match=r"^model: expected an ONNX model with the input 'photo'"):
        with_free_shape(_model_file().read_bytes(), "photo", (1, 3, 32, 32))


@pytest.mark.parametrize("model", [b"", b"no model at all", _model_file().read_bytes()[:-9]])
def test_other_bytes_are_refused(model):
    with pytest.raises(ValueError, match=r"^model: expected"):
        with_free_shape(model, INPUT, (1, 3, 32, 32))
