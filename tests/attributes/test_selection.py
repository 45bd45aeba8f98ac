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


def test_default_keep() -> None:
    assert make_selection() == AttributeSelection(tuple(VOCABULARY), {})
    selection = make_selection(change={"gender": "man"})
    assert set(selection.keep) == set(VOCABULARY) - {"gender"}
    assert selection.named == (*selection.keep, "gender")


def test_normalised_names_and_phrases() -> None:
    selection = make_selection([" Expression", "a  scar on the chin", "expression"])
    assert (selection.keep, selection.phrases) == (("expression", "a scar on the chin"), ("a scar on the chin",))
    for text in ("freckles", "a skin like milk", "pale", "beard", "Sommersprossen"):
        assert make_selection([text]).phrases == (text,)


@pytest.mark.parametrize(
    ("years", "word"), [("2", "toddler"), (7, "child"), ("16", "teenager"), ("20", "young"), (50, "middle-aged")]
)
def test_age_in_years(years: object, word: str) -> None:
    assert make_selection(change={"age": years}).change == {"age": word}


@pytest.mark.parametrize(
    ("keep", "change", "words"),
    [
        ([""], {}, "is not an attribute"),
        (["12"], {}, "is not an attribute"),
        (["expresion"], {}, "did you mean expression"),
        (["gendr"], {}, "did you mean gender"),
        (["sex"], {}, "did you mean gender"),
        (["none", "age"], {}, "cannot be combined"),
        ("age", {}, "is a string"),
        (None, {"gendre": "man"}, "did you mean gender"),
        (None, {"shoe size": "42"}, "use one of expression, age"),
        (None, {"gender": "tall"}, "use one of woman, man"),
        (None, {"age": "ancient"}, "or a number of years"),
        (None, {"age": "200"}, "expected under 120 years"),
        (None, {"age": ""}, "cannot become ''"),
        (None, {"pose": "looking left"}, "keep it or leave it out"),
        (["age", "gender"], {"age": "30"}, "age: cannot be both kept and changed"),
    ],
)
def test_invalid_selections(keep: object, change: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_selection(keep, change)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parse_options() -> None:
    assert parse_keep([]) is parse_keep(["all"]) is None
    assert parse_keep(["none"]) == ()
    assert parse_keep(["expression, age", "freckles"]) == ("expression", "age", "freckles")
    assert parse_change(["age=70", "gender = man"]) == {"age": "70", "gender": "man"}
    for texts in (["age"], ["age=3", "age=4"]):
        with pytest.raises(UsageError, match="--change age"):
            parse_change(texts)


def test_map_attributes() -> None:
    selection = make_selection(["age", "gaze"], {"expression": "smiling"})
    assert selection.restrict_to_map() == AttributeSelection(("gaze",), {"expression": "smiling"})
    assert selection.requires_encoder() == ["age"]
    assert make_selection().requires_encoder() == []
    assert make_selection(change={"expression": "smiling"}).requires_encoder() == []
    assert make_selection(change={"gender": "man"}).requires_encoder() == ["gender"]
    assert make_selection([*VOCABULARY, "freckles"]).requires_encoder() == ["freckles"]


@pytest.fixture
def features() -> torch.Tensor:
    """Features far enough from the centre to survive quantization."""
    return 8 * F.normalize(torch.randn(2, len(FEATURE_NAMES), 16, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_filter_by_face(tiny_pipeline, features: torch.Tensor) -> None:
    subspace, centre = tiny_pipeline.subspace(), tiny_pipeline.attribute_adapter.centre
    step = subspace.quantization_step(float(tiny_pipeline.attribute_adapter.phrase_scale))
    features[0] = centre + 3 * step * subspace.bases["gender"][0]
    both = filter_features(tiny_pipeline, features, [make_selection(["gender"]), make_selection(())])
    assert torch.equal(both[1], centre)
    assert torch.equal(both[0], subspace.project(features[0], ["gender"], centre, step))
    assert not torch.equal(both[0], centre)


def test_new_phrase_needs_no_training(tiny_pipeline, features: torch.Tensor) -> None:
    """A phrase adds a dimension to the subspace, and the weights stay the same."""
    weights = [p.clone() for p in tiny_pipeline.attribute_adapter.parameters()]
    without, kept = (
        filter_features(tiny_pipeline, features[:1], [make_selection(words)]) for words in (["age"], ["age", "scar"])
    )
    assert not torch.equal(without, kept)
    subspace = tiny_pipeline.subspace(["scar"])
    assert subspace.dimensions(["age", "scar"]) == subspace.dimensions(["age"]) + 1
    assert all(torch.equal(p, q) for p, q in zip(weights, tiny_pipeline.attribute_adapter.parameters(), strict=True))


def test_change_replaces_face_component(tiny_pipeline, features: torch.Tensor) -> None:
    """Two faces have equal features of an attribute after it is changed to the same word."""
    man, woman = (
        filter_features(tiny_pipeline, features, [make_selection((), {"gender": word})] * 2)
        for word in ("man", "woman")
    )
    assert torch.allclose(man[0], man[1], atol=1e-6)
    assert not torch.allclose(man, woman, atol=1e-3)


def test_filter_requires_text_encoder(tiny_pipeline, features: torch.Tensor) -> None:
    pipeline = type(tiny_pipeline)(**{**tiny_pipeline.components, "phrase_encoder": None})
    with pytest.raises(DeidError, match="phrase_encoder="):
        filter_features(pipeline, features, [make_selection(())] * 2)
