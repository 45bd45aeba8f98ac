"""From the page's controls to options."""

from dataclasses import replace

import pytest

from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.errors import UsageError
from deid_diffusion.faces.methods import METHODS
from deid_diffusion.options import Options
from deid_diffusion.service.photo import SUFFIXES
from deid_diffusion.web import choices
from deid_diffusion.web.choices import Choices

PLAIN = Choices(list(VOCABULARY), "", "synth", choices.FRESH, 1, 6, "png")


def test_the_page_as_it_opens_is_the_default():
    assert PLAIN.options(None) == Options()


def test_choices():
    assert replace(PLAIN, keep=["age"], words=" freckles , dimples").options(None).keep == (
        "age",
        "freckles",
        "dimples",
    )
    assert replace(PLAIN, words="freckles").options(None).keep == (*VOCABULARY, "freckles")
    assert replace(PLAIN, keep=[], words=" , ").options(None).keep == ()
    assert replace(PLAIN, new_faces=choices.SEED, seed=24.0, attempts=5).options(None) == Options(seed=24, attempts=5)
    assert replace(PLAIN, method="blur", words="freckles", seed=None).options(None) == Options(method="blur")


def test_who_gets_a_person():
    person = replace(PLAIN, new_faces=choices.PERSON)
    assert person.by_person
    assert not replace(person, method="fill").by_person
    assert not PLAIN.by_person


@pytest.mark.parametrize("seed", [None, -1, 1.5, 1e300])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(UsageError, match="expected a whole number"):
        replace(PLAIN, new_faces=choices.SEED, seed=seed).options(None)


@pytest.mark.parametrize("words", ["expresion", "none, age", "x" * 501, "12"])
def test_words_that_are_none(words):
    with pytest.raises(UsageError):
        replace(PLAIN, words=words).options(None)


def test_all_methods_and_formats_are_on_the_page():
    assert {method for _, method in choices.METHODS} == set(METHODS)
    assert {one for _, one in choices.FORMATS} == set(SUFFIXES)
