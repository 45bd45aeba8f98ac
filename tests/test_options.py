"""The schema of options: ranges, contradictions, and the digest for resumed runs."""

import json
import pickle
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest

from deid_diffusion.errors import UsageError
from deid_diffusion.faces.compositing import METHODS
from deid_diffusion.faces.semantic_map import REGIONS
from deid_diffusion.options import Method, Options, Region, option_schema, options_digest

PSEUDONYMS = SimpleNamespace(key=SimpleNamespace(fingerprint="f00d", secret=b"secret"), store=Path("/home/me/a.sqlite"))
PEOPLE = SimpleNamespace(embeddings=np.arange(4, dtype=np.float32), threshold=0.9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_candidates": 0}, "num_candidates: should be at least 1, got 0"),
        ({"num_inference_steps": 0}, "num_inference_steps: should be at least 1, got 0"),
        ({"batch_size": "many"}, "batch_size: should be a valid integer"),
        ({"seed": -1}, "seed: should be at least 0"),
        ({"map_blend": 1.1}, "map_blend: should be at most 1, got 1.1"),
        ({"map_blend": float("nan")}, "map_blend: should be a finite number"),
        ({"method": "synth"}, "method: should be 'generate', 'fill', 'blur' or 'pixelate', got 'synth'"),
        ({"fill_colour": "red"}, "fill_colour: should be 'surroundings' or 'grey'"),
        ({"keep": "age"}, "keep: should be a valid tuple, got 'age'"),
        ({"keep": ("gendr",)}, "keep: gendr is not an attribute: did you mean gender"),
        ({"keep": ("age",), "change": {"age": 70}}, "cannot be both kept and changed"),
        ({"keep_regions": {"ears"}}, "keep_regions.*: should be 'skin', 'brows'"),
        ({"keep_regions": set(REGIONS)}, "keep_regions: all regions together are the whole face: leave one out"),
        ({"method": "fill", "prompt": "x"}, "method fill: keeps and changes no attribute"),
        ({"method": "blur", "map_blend": 0.5}, "method blur: keeps and changes no attribute"),
        ({"seed": 1, "pseudonyms": PSEUDONYMS}, "seed, pseudonyms: both determine the new face"),
        ({"steps": 3}, "steps: is unknown"),
    ],
)
def test_invalid_options(values, message):
    with pytest.raises(UsageError, match=message) as caught:
        Options(**values)
    assert "\n" not in str(caught.value)


def test_schema_matches_models():
    assert get_args(Method) == METHODS
    assert get_args(Region) == tuple(REGIONS)


def test_every_option_is_described():
    for option in fields(Options):
        assert option_schema(option.name)["description"].endswith(".")
    assert option_schema("map_blend").items() >= {"default": 0.0, "ge": 0, "le": 1}.items()


def test_replace_and_pickle():
    options = Options(keep=["age"], change={"skin": "dark skin"}, keep_regions=["eyes"])
    assert (options.keep, options.keep_regions) == (("age",), {"eyes"})
    assert pickle.loads(pickle.dumps(options)) == options == replace(options)
    with pytest.raises(UsageError, match="batch_size"):
        replace(options, batch_size=0)


def test_digest():
    digest = options_digest(Options(pseudonyms=PSEUDONYMS, keep_people=PEOPLE, keep_regions={"nose", "eyes"}))
    assert digest["keep_regions"] == ["eyes", "nose"]
    assert digest["pseudonyms"] == ["f00d", "a.sqlite"]
    text = json.dumps(digest)
    assert "secret" not in text
    assert "/home/me" not in text
    assert "embeddings" not in text
    other = SimpleNamespace(embeddings=PEOPLE.embeddings[::-1].copy(), threshold=0.9)
    assert options_digest(Options(keep_people=other))["keep_people"] != digest["keep_people"]
    assert options_digest(Options(seed=1)) != options_digest(Options(seed=2))
