from collections import Counter
from zlib import crc32

import numpy as np
import pytest
import torch

from deid_diffusion.attributes.subspace import AttributeSubspace
from deid_diffusion.faces.donors import attribute_costs, draw_donors, glasses_fit, show_teeth, wears_glasses
from deid_diffusion.faces.landmarks import FaceMeasures
from deid_diffusion.models.identity_model import MEASURES, Donors, IdentityModel
from tests.conftest import make_tiny_people

REST = FaceMeasures(0.05, 0.0, 0.3, 0.0, 0.6)
OPEN = FaceMeasures(0.05, 0.06, 0.3, 0.0, 0.6)


def embed(texts: list[str]) -> torch.Tensor:
    rows = [torch.randn(16, generator=torch.Generator().manual_seed(crc32(text.encode()))) for text in texts]
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


@pytest.fixture
def people() -> IdentityModel:
    return make_tiny_people(40)


@pytest.fixture
def subspace() -> AttributeSubspace:
    words = {"gender": ("woman", "man"), "age": ("child", "old"), "freckles": ("freckles",)}
    return AttributeSubspace.from_phrases(words, embed)


def test_what_is_not_named_costs_nothing(people: IdentityModel, subspace: AttributeSubspace) -> None:
    features, centre = people.features[3], torch.zeros(6, 16)
    free = attribute_costs(people, features, centre, subspace, ())
    assert np.array_equal(free, attribute_costs(people, None, centre, None, ("gender",)))
    assert len(set(free.tolist())) == 1


def test_people_who_fit_a_phrase_cost_least(people: IdentityModel, subspace: AttributeSubspace) -> None:
    costs = attribute_costs(people, people.features[3], torch.zeros(6, 16), subspace, ("freckles",))
    places = (people.features[:, 0] @ subspace.bases["freckles"].T).squeeze()
    assert costs.argmin() == 3
    assert np.array_equal(np.argsort(costs), np.argsort(((places - places[3]) ** 2).numpy()))


@pytest.mark.parametrize(("name", "column", "low", "high"), [("gender", 0, 0.0, 1.0), ("age", 1, 25.0, 95.0)])
def test_sex_and_age_are_read_from_the_people_s_own_features(
    people: IdentityModel, subspace: AttributeSubspace, name: str, column: int, low: float, high: float
) -> None:
    """Features that tell of an attribute in its words' subspace: people of that sex and age cost least."""
    basis, values = subspace.bases[name][:1], people.measures[:, column].clone()
    values = torch.log(values + 8) if name == "age" else values
    values = (values - values.mean()) / values.std()
    people.features[:, 0] += 3 * values[:, None] * basis
    for person, wanted in ((int(values.argmin()), low), (int(values.argmax()), high)):
        costs = attribute_costs(people, people.features[person], torch.zeros(6, 16), subspace, (name,))
        assert abs(float(people.measures[costs.argmin(), column]) - wanted) <= 0.3 * max(wanted, 20)


def test_an_encoder_of_another_space_is_matched_by_words(people: IdentityModel) -> None:
    words = {"gender": ("woman", "man"), "age": ("child", "elderly")}
    other = AttributeSubspace.from_phrases(words, lambda texts: embed(texts)[:, :8])
    features = other.directions["gender"][1].expand(6, 8)  # a man
    costs = attribute_costs(people, features, torch.zeros(6, 8), other, ("gender",))
    male = people.measures[:, 0].numpy()
    assert costs[male > 0.5].max() < costs[male < 0.5].min()


def test_a_seed_draws_one_person_and_others_draw_others(people: IdentityModel) -> None:
    costs = np.zeros(len(people))
    drawn = [draw_donors(people, costs, REST, seed, glasses=False, steady=False) for seed in (1, 1, *range(2, 60))]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 50
    assert max(Counter(person.skin for person in drawn).values()) < 20


def test_even_where_one_person_fits_best_others_are_drawn(people: IdentityModel) -> None:
    """Faces of rare attributes must not all get the same person."""
    costs = np.full(len(people), 200.0)
    costs[3] = 0.0
    drawn = [draw_donors(people, costs, REST, seed, glasses=False, steady=False).skin for seed in range(100)]
    counts = Counter(drawn)
    assert counts.most_common(1)[0][0] == 3
    assert counts[3] < 80
    assert len(counts) >= 5


def test_nobody_without_glasses_is_drawn_for_variety_s_sake(people: IdentityModel) -> None:
    drawn = {
        draw_donors(people, np.zeros(len(people)), REST, seed, glasses=True, steady=False).eyes for seed in range(40)
    }
    assert drawn <= set(np.flatnonzero(people.measures[:, MEASURES.index("glasses")] > 0.75))


def test_later_attempts_emphasise_more_up_to_a_limit(people: IdentityModel) -> None:
    costs = np.zeros(len(people))
    drawn = [
        draw_donors(people, costs, REST, 1, glasses=False, steady=False, attempt=attempt)
        for attempt in (0, 1, 2, 9, 99)
    ]
    emphasis = [person.emphasis for person in drawn]
    assert emphasis == sorted(emphasis)
    assert emphasis[0] == Donors(0, 0, 0, 0, 0).emphasis < emphasis[1] < emphasis[2]
    assert emphasis[3] == emphasis[4]


def test_who_wears_glasses_is_drawn_where_they_are_kept_alone(people: IdentityModel) -> None:
    costs = np.zeros(len(people))
    for seed in range(30):
        person = draw_donors(people, costs, REST, seed, glasses=False, steady=False)
        assert 11 not in (person.skin, person.eyes, person.nose, person.mouth)
    assert draw_donors(people, costs, REST, 0, glasses=True, steady=False).eyes == 11


def test_glasses_are_read_from_the_people_s_own_features(people: IdentityModel) -> None:
    words = {"glasses": ("reading glasses", "no glasses")}
    subspace = AttributeSubspace.from_phrases(words, embed)
    basis, centre = subspace.bases["glasses"][:1], torch.zeros(6, 16)
    people.measures[:12, 6], people.measures[12:, 6] = 0.9, 0.0
    for person in range(len(people)):
        people.features[person] += (4 if person < 12 else -4) * basis
    read = [wears_glasses(people, people.features[person], centre, subspace) for person in range(len(people))]
    assert read == [person < 12 for person in range(len(people))]
    people.measures[:, 6] = 0  # nobody to learn from: the words decide
    assert wears_glasses(people, subspace.directions["glasses"][0].expand(6, 16), centre, subspace)
    assert not wears_glasses(people, subspace.directions["glasses"][1].expand(6, 16), centre, subspace)


def test_glasses_are_left_out_where_nobody_who_wears_them_fits(people: IdentityModel) -> None:
    people.measures[:4, 6] = 1
    costs = np.zeros(len(people))
    assert glasses_fit(people, costs)
    costs[2:4] = 20
    costs[11] = 20
    assert not glasses_fit(people, costs)


def test_lips_fit_the_expression_or_rest(people: IdentityModel) -> None:
    costs, gaps = np.zeros(len(people)), people.measures[:, 3].numpy()
    shown = [draw_donors(people, costs, OPEN, seed, glasses=False, steady=False) for seed in range(20)]
    steady = [draw_donors(people, costs, OPEN, seed, glasses=False, steady=True) for seed in range(20)]
    assert np.mean([gaps[person.mouth] for person in shown]) > np.mean([gaps[person.mouth] for person in steady])


def test_closed_lips_borrow_teeth_for_an_open_mouth(people: IdentityModel) -> None:
    closed, gaps = Donors(0, 0, 0, 0, 0), people.measures[:, 3].numpy()
    assert show_teeth(people, closed, REST, 5) == closed
    teeth = show_teeth(people, closed, FaceMeasures(0.05, 0.3, 0.3, 0.0, 0.6), 5)
    assert gaps[teeth.inner] > gaps[0]
    assert (teeth.skin, teeth.mouth) == (0, 0)
    assert show_teeth(people, closed, FaceMeasures(0.05, 0.3, 0.3, 0.0, 0.6), 5) == teeth


def test_smiles_show_bright_teeth_and_other_open_mouths_dark(people: IdentityModel) -> None:
    people.measures[:, [0, 1, 3]] = torch.tensor([1.0, 30.0, 0.2])
    people.teeth = np.linspace(-1.2, 0, len(people)).astype(np.float32)
    for smile, low, high in ((0.15, -0.4, 0.1), (-0.1, -1.3, -0.9)):
        shown = FaceMeasures(smile, 0.2, 0.3, 0.0, 0.6)
        drawn = [show_teeth(people, Donors(20, 20, 20, 20, 20), shown, seed).inner for seed in range(20)]
        assert low < people.teeth[drawn].min() <= people.teeth[drawn].max() < high
    fits = Donors(20, 20, 20, 39, 20)
    assert show_teeth(people, fits, FaceMeasures(0.15, 0.2, 0.3, 0.0, 0.6), 1).inner == 39


def test_mouths_that_are_wide_open_or_lopsided_are_not_drawn(people: IdentityModel) -> None:
    people.measures[:20, 3], people.measures[20:, 3] = 0.5, 0.2
    uneven = np.zeros(len(people), np.float32)
    uneven[30:] = 1.2
    people._asymmetries = {"mouth": uneven, "eyes": uneven}
    shown = FaceMeasures(0.05, 0.5, 0.3, 0.0, 0.6)
    drawn = [draw_donors(people, np.zeros(40), shown, seed, glasses=False, steady=False) for seed in range(20)]
    assert {person.mouth for person in drawn} | {person.inner for person in drawn} <= set(range(20, 40))
    assert np.mean([person.mouth >= 30 for person in drawn]) < 0.15
    assert np.mean([person.eyes >= 30 for person in drawn]) < 0.15


def test_eyes_without_white_are_rarely_drawn(people: IdentityModel) -> None:
    people.measures[:, [0, 1]] = torch.tensor([1.0, 30.0])
    people._asymmetries = {"eyes": np.zeros(40), "mouth": np.zeros(40)}
    people.eye_whites = np.where(np.arange(len(people)) < 20, -0.7, -0.2).astype(np.float32)
    drawn = [draw_donors(people, np.zeros(40), REST, seed, glasses=False, steady=False).eyes for seed in range(40)]
    assert np.mean(np.array(drawn) < 20) < 0.15
