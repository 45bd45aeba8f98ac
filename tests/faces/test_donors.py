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

CENTRE = torch.zeros(6, 16)


def expression(smile: float = 0.05, mouth_open: float = 0.0) -> FaceMeasures:
    return FaceMeasures(smile, mouth_open, 0.3, 0.0, 0.6)


REST = expression()


def draw(people: IdentityModel, seed: int, costs=None, measures: FaceMeasures = REST, **options) -> Donors:
    """Draw donors, by default without costs, at rest, without glasses and for a photo."""
    costs = np.zeros(len(people)) if costs is None else costs
    return draw_donors(people, costs, measures, seed, **{"glasses": False, "steady": False, **options})


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


def test_phrase_costs(people: IdentityModel, subspace: AttributeSubspace) -> None:
    unnamed = attribute_costs(people, people.features[3], CENTRE, subspace, ())
    assert {*unnamed.tolist(), *attribute_costs(people, None, CENTRE, None, ("gender",)).tolist()} == {unnamed[0]}
    costs = attribute_costs(people, people.features[3], CENTRE, subspace, ("freckles",))
    projections = (people.features[:, 0] @ subspace.bases["freckles"].T).squeeze()
    assert costs.argmin() == 3
    assert np.array_equal(np.argsort(costs), np.argsort(((projections - projections[3]) ** 2).numpy()))


@pytest.mark.parametrize(("name", "column", "low", "high"), [("gender", 0, 0.0, 1.0), ("age", 1, 25.0, 95.0)])
def test_sex_and_age_costs(people, subspace, name: str, column: int, low: float, high: float) -> None:
    """Features that encode the attribute in its subspace make people of that sex or age cheapest."""
    basis, values = subspace.bases[name][:1], people.measures[:, column].clone()
    values = torch.log(values + 8) if name == "age" else values
    values = (values - values.mean()) / values.std()
    people.features[:, 0] += 3 * values[:, None] * basis
    for person, expected in ((int(values.argmin()), low), (int(values.argmax()), high)):
        costs = attribute_costs(people, people.features[person], CENTRE, subspace, (name,))
        assert abs(float(people.measures[costs.argmin(), column]) - expected) <= 0.3 * max(expected, 20)


def test_costs_of_another_encoder(people: IdentityModel) -> None:
    words = {"gender": ("woman", "man"), "age": ("child", "elderly")}
    other = AttributeSubspace.from_phrases(words, lambda texts: embed(texts)[:, :8])
    features = other.directions["gender"][1].expand(6, 8)  # a man
    costs = attribute_costs(people, features, torch.zeros(6, 8), other, ("gender",))
    male = people.measures[:, 0].numpy()
    assert costs[male > 0.5].max() < costs[male < 0.5].min()


def test_seed_selects_the_donors(people: IdentityModel) -> None:
    drawn = [draw(people, seed) for seed in (1, 1, *range(2, 60))]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 50
    assert max(Counter(donors.skin for donors in drawn).values()) < 20


def test_donors_of_rare_attributes(people: IdentityModel) -> None:
    costs = np.full(len(people), 200.0)
    costs[3] = 0.0
    counts = Counter(draw(people, seed, costs=costs).skin for seed in range(100))
    assert counts.most_common(1)[0][0] == 3
    assert counts[3] < 80
    assert len(counts) >= 5


def test_attempts_raise_the_emphasis(people: IdentityModel) -> None:
    first, second, third, *last = (draw(people, 1, attempt=attempt).emphasis for attempt in (0, 1, 2, 9, 99))
    assert Donors(0, 0, 0, 0, 0).emphasis == first < second < third <= last[0] == last[1]


def test_glasses_select_their_wearers(people: IdentityModel) -> None:
    wearers = set(np.flatnonzero(people.measures[:, MEASURES.index("glasses")] > 0.75).tolist())
    assert wearers == {11}
    for seed in range(40):
        donors = draw(people, seed)
        assert wearers.isdisjoint((donors.skin, donors.eyes, donors.nose, donors.mouth))
        assert draw(people, seed, glasses=True).eyes in wearers


def test_wears_glasses(people: IdentityModel) -> None:
    subspace = AttributeSubspace.from_phrases({"glasses": ("reading glasses", "no glasses")}, embed)
    basis = subspace.bases["glasses"][:1]
    people.measures[:12, 6], people.measures[12:, 6] = 0.9, 0.0
    for person in range(len(people)):
        people.features[person] += (4 if person < 12 else -4) * basis
    results = [wears_glasses(people, features, CENTRE, subspace) for features in people.features]
    assert results == [person < 12 for person in range(len(people))]
    people.measures[:, 6] = 0  # without wearers to learn from, the words decide
    with_glasses, without = subspace.directions["glasses"]
    assert wears_glasses(people, with_glasses.expand(6, 16), CENTRE, subspace)
    assert not wears_glasses(people, without.expand(6, 16), CENTRE, subspace)


def test_glasses_fit(people: IdentityModel) -> None:
    people.measures[:4, 6] = 1
    costs = np.zeros(len(people))
    assert glasses_fit(people, costs)
    costs[[2, 3, 11]] = 20
    assert not glasses_fit(people, costs)


def test_steady_lips(people: IdentityModel) -> None:
    measures = expression(mouth_open=0.06)
    expressive, steady = (
        [draw(people, seed, measures=measures, steady=steady).mouth for seed in range(20)] for steady in (False, True)
    )
    assert people.measures[expressive, 3].mean() > people.measures[steady, 3].mean()


def test_open_mouth_has_teeth(people: IdentityModel) -> None:
    people.measures[:, 3] *= 3  # a quarter have open mouths
    closed = Donors(0, 0, 0, 0, 0)
    assert show_teeth(people, closed, REST, 5) == closed
    donors = show_teeth(people, closed, expression(mouth_open=0.3), 5)
    assert people.measures[donors.inner, 3] > people.measures[0, 3]
    assert (donors.skin, donors.mouth) == (0, 0)
    assert show_teeth(people, closed, expression(mouth_open=0.3), 5) == donors


def test_smiles_show_brighter_teeth(people: IdentityModel) -> None:
    people.measures[:, [0, 1, 3]] = torch.tensor([1.0, 30.0, 0.2])
    people.teeth = np.linspace(-1.2, 0, len(people)).astype(np.float32)
    for smile, low, high in ((0.15, -0.4, 0.1), (-0.1, -1.3, -0.9)):
        measures = expression(smile, 0.2)
        drawn = [show_teeth(people, Donors(20, 20, 20, 20, 20), measures, seed).inner for seed in range(20)]
        assert low < people.teeth[drawn].min() <= people.teeth[drawn].max() < high
    for teeth, low, high in ((-0.2, -0.5, 0.1), (-1.0, -1.3, -0.8)):
        lips = 5 if teeth > -0.5 else 35  # whose own teeth do not suit
        donors = Donors(20, 20, 20, lips, lips)
        drawn = [show_teeth(people, donors, measures, seed, teeth).inner for seed in range(20)]
        assert low < people.teeth[drawn].min() <= people.teeth[drawn].max() < high
    suitable = Donors(20, 20, 20, 39, 20)
    assert show_teeth(people, suitable, expression(0.15, 0.2), 1).inner == 39


def test_unsuitable_regions_avoided(people: IdentityModel, monkeypatch: pytest.MonkeyPatch) -> None:
    people.measures[:20, 3], people.measures[20:, 3] = 0.5, 0.2
    asymmetry = np.where(np.arange(len(people)) < 30, 0.0, 1.2).astype(np.float32)
    monkeypatch.setattr(IdentityModel, "asymmetry", lambda model, region: asymmetry)
    drawn = [draw(people, seed, measures=expression(mouth_open=0.5)) for seed in range(20)]
    assert {donors.mouth for donors in drawn} | {donors.inner for donors in drawn} <= set(range(20, 40))
    assert np.mean([donors.mouth >= 30 for donors in drawn]) < 0.15
    assert np.mean([donors.eyes >= 30 for donors in drawn]) < 0.15


def test_eyes_without_white_are_avoided(people: IdentityModel, monkeypatch: pytest.MonkeyPatch) -> None:
    people.eye_highlights = np.zeros(len(people), np.float32)
    people.measures[:, [0, 1]] = torch.tensor([1.0, 30.0])
    monkeypatch.setattr(IdentityModel, "asymmetry", lambda model, region: np.zeros(len(model)))
    people.eye_whites = np.where(np.arange(len(people)) < 20, -0.7, -0.2).astype(np.float32)
    assert np.mean([draw(people, seed).eyes < 20 for seed in range(40)]) < 0.15


def test_highlights_around_eyes_are_avoided(people: IdentityModel, monkeypatch: pytest.MonkeyPatch) -> None:
    people.measures[:, [0, 1]] = torch.tensor([1.0, 30.0])
    monkeypatch.setattr(IdentityModel, "asymmetry", lambda model, region: np.zeros(len(model)))
    people.eye_whites = np.zeros(len(people), np.float32)
    people.eye_highlights = np.where(np.arange(len(people)) < 20, 0.4, 0.1).astype(np.float32)
    assert np.mean([draw(people, seed).eyes < 20 for seed in range(40)]) < 0.15
