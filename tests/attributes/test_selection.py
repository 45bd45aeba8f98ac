"""The user's words: what they choose, and one clear line for those that choose nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deid_diffusion.attributes.selection import (
    AttributeSelection,
    filter_features,
    make_selection,
    parse_change,
    parse_keep,
)
from deid_diffusion.attributes.subspace import FEATURE_NAMES
from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.errors import DeidError, UsageError


def test_nothing_said_keeps_every_built_in_attribute() -> None:
    assert make_selection() == AttributeSelection(tuple(VOCABULARY), {})


def test_what_is_changed_is_not_kept() -> None:
    choice = make_selection(change={"gender": "man"})
    assert set(choice.keep) == set(VOCABULARY) - {"gender"}
    assert choice.named == (*choice.keep, "gender")


def test_names_phrases_and_order() -> None:
    choice = make_selection([" Expression", "a  scar on the chin", "expression"])
    assert choice.keep == ("expression", "a scar on the chin")
    assert choice.phrases == ("a scar on the chin",)


@pytest.mark.parametrize(
    ("years", "word"), [("2", "toddler"), (7, "child"), ("16", "teenager"), ("20", "young"), (50, "middle-aged")]
)
def test_years_become_words(years: object, word: str) -> None:
    assert make_selection(change={"age": years}).change == {"age": word}


@pytest.mark.parametrize("text", ["freckles", "a skin like milk", "pale", "beard", "Sommersprossen"])
def test_a_phrase_of_the_users_own_is_one(text: str) -> None:
    assert make_selection([text]).phrases == (text,)


@pytest.mark.parametrize(
    ("keep", "change", "words"),
    [
        ([""], {}, "no attribute"),
        (["12"], {}, "no attribute"),
        (["expresion"], {}, "did you mean expression"),
        (["gendr"], {}, "did you mean gender"),
        (["sex"], {}, "did you mean gender"),
        (["none", "age"], {}, "stands alone"),
        ("age", {}, "one text"),
        (None, {"gendre": "man"}, "did you mean gender"),
        (None, {"shoe size": "42"}, "there are expression, age"),
        (None, {"gender": "tall"}, "the words are woman, man"),
        (None, {"age": "ancient"}, "or a number of years"),
        (None, {"age": "200"}, "expected under 120"),
        (None, {"age": ""}, "cannot become ''"),
        (None, {"pose": "looking left"}, "keep it or leave it out"),
        (["age", "gender"], {"age": "30"}, "age: cannot be kept and changed"),
    ],
)
def test_bad_words_are_one_line(keep: object, change: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_selection(keep, change)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_command_line_lists() -> None:
    assert parse_keep([]) is parse_keep(["all"]) is None
    assert parse_keep(["none"]) == ()
    assert parse_keep(["expression, age", "freckles"]) == ("expression", "age", "freckles")
    assert parse_change(["age=70", "gender = man"]) == {"age": "70", "gender": "man"}


@pytest.mark.parametrize("texts", [["age"], ["age=3", "age=4"]])
def test_changes_that_say_nothing_or_two_things(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="--change age"):
        parse_change(texts)


def test_what_a_map_alone_can_carry_out() -> None:
    choice = make_selection(["age", "gaze"], {"expression": "smiling"})
    assert choice.restrict_to_map() == AttributeSelection(("gaze",), {"expression": "smiling"})
    assert choice.requires_encoder() == ["age"]
    assert make_selection().requires_encoder() == []
    assert make_selection(change={"expression": "smiling"}).requires_encoder() == []
    assert make_selection(change={"gender": "man"}).requires_encoder() == ["gender"]
    assert make_selection([*VOCABULARY, "freckles"]).requires_encoder() == ["freckles"]


@pytest.fixture
def features() -> torch.Tensor:
    """Far enough from the centre to be more than nothing after rounding."""
    return 8 * F.normalize(torch.randn(2, len(FEATURE_NAMES), 16, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_each_face_has_its_own_choice(tiny_pipeline, features: torch.Tensor) -> None:
    subspace, centre = tiny_pipeline.subspace(), tiny_pipeline.attribute_adapter.centre
    grain = subspace.grain(float(tiny_pipeline.attribute_adapter.phrase_scale))
    features[0] = centre + 3 * grain * subspace.bases["gender"][0]
    both = filter_features(tiny_pipeline, features, [make_selection(["gender"]), make_selection(())])
    assert torch.equal(both[1], centre)
    assert torch.equal(both[0], subspace.project(features[0], ["gender"], centre, grain))
    assert not torch.equal(both[0], centre)


def test_a_new_phrase_needs_no_training(tiny_pipeline, features: torch.Tensor) -> None:
    """The same weights: a phrase adds its own dimension to what passes."""
    weights = [p.clone() for p in tiny_pipeline.attribute_adapter.parameters()]
    without, kept = (
        filter_features(tiny_pipeline, features[:1], [make_selection(words)]) for words in (["age"], ["age", "scar"])
    )
    assert not torch.equal(without, kept)
    subspace = tiny_pipeline.subspace(["scar"])
    assert subspace.dimensions(["age", "scar"]) == subspace.dimensions(["age"]) + 1
    assert all(torch.equal(p, q) for p, q in zip(weights, tiny_pipeline.attribute_adapter.parameters(), strict=True))


def test_a_change_takes_the_faces_place(tiny_pipeline, features: torch.Tensor) -> None:
    """What two faces show of an attribute is the same once it is changed to one word."""
    made = filter_features(tiny_pipeline, features, [make_selection((), {"gender": "man"})] * 2)
    assert torch.allclose(made[0], made[1], atol=1e-6)
    other = filter_features(tiny_pipeline, features, [make_selection((), {"gender": "woman"})] * 2)
    assert not torch.allclose(made, other, atol=1e-3)


def test_a_model_that_reads_no_words_lets_nothing_through(tiny_pipeline, features: torch.Tensor) -> None:
    pipeline = type(tiny_pipeline)(**{**tiny_pipeline.components, "phrase_encoder": None})
    with pytest.raises(DeidError, match="phrase_encoder="):
        filter_features(pipeline, features, [make_selection(())] * 2)
