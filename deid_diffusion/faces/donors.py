"""Who is drawn: the synthetic people that a new face is mixed from, at random among those who fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..attributes.encoding import SHARPNESS
from ..attributes.subspace import FEATURE_NAMES
from ..attributes.vocabulary import SEEN_IN, VOCABULARY, YEARS
from ..models.identity_model import MEASURES, Donors, IdentityModel
from .landmarks import FaceMeasures

if TYPE_CHECKING:
    from ..attributes.subspace import AttributeSubspace

#: Attribute -> weight of a squared difference in standard deviations of the people; words of the user's own count 2.
#: Sex and age are read as numbers, see `_read_sex` and `_read_age`; what the mesh or the light brings counts 0.
_WEIGHTS: Mapping[str, float] = {
    "expression": 2.0, "ethnicity": 2.0, "facial hair": 1.0, "makeup": 0.5, "skin": 0.5,
    "gender": 0.0, "age": 0.0, "gaze": 0.0, "pose": 0.0, "light": 0.0, "glasses": 0.0,
}  # fmt: skip
_SEX, _YEARS = 16.0, 0.1  # cost of the other sex, and difference in the logarithm of age that costs 1
_CHILD = 8.0  # years that are added to an age before the logarithm
_STRETCH, _ADULT = 1.3, 27.0  # photographs read nearer to this age than the portraits of the identity model
#: Ages that mixed faces look, and ages of the donors that they are mixed from: children of mixed parts look older.
_LOOKS, _AGES = (7.0, 13.0, _ADULT, 75.0), (0.0, 10.0, _ADULT, 94.0)
_MIDDLE, _SURE = 0.085, 0.07  # place between the sexes, towards women, and width, in the projected features
_RIDGE = 1e-3
_PHRASE = 2.0
_MOUTH = {"smile": 0.05, "mouth_open": 0.08}  # differences that count as one standard deviation
_SMILE, _BROADEST = 1.5, 0.13  # how much more donors smile than the faces mixed from them, and the most of it
_FAR = 4.0  # cost of a difference in expression, at most: somebody rarer is not there
_EYES = {"eyes_open": 0.07}
_REST = {"smile": 0.05, "mouth_open": 0.0}
_PARTED, _WIDE, _TOO_WIDE = 0.06, 0.24, 0.36  # `measures.FaceMeasures.mouth_open` from which something is seen between
# the lips, that of the donors of wider ones, and from which what is carried to the mean mesh is a tongue and no lip
_LEAST_WHITE = -0.5  # `IdentityModel.eye_whites` down to which eyes cost nothing
_LOPSIDED = 0.85  # `IdentityModel.asymmetry` that costs nothing
_DARK, _BRIGHTER, _BRIGHTNESS = -0.8, 6.0, (-1.2, -0.15)  # `IdentityModel.teeth` at rest, more in smiles, and its range
_SUITS = 0.3  # difference from that which is no flaw
_CLOSED = 0.2  # `measures.FaceMeasures.eyes_open` under which eyes may be closed
_NEVER = 1e6  # cost
_WEARS, _BARE = 0.75, 0.25  # probabilities from which somebody wears glasses, and under which none
_WEARERS = 0.15  # share of people who wear glasses
_SEVERAL, _NEARLY = 3, 9.0  # people with glasses, and cost that is worth them: sex and age come first
_ODD, _USUAL = 40.0, 0.3  # cost of an oddity of 1, and oddity that costs nothing
_BEST = 40  # people at most that a region is drawn from
_SKIN, _FEATURES, _MOUTHS = 7.0, 10.0, 5.0  # least perplexity of the draws of each region
_TEETH = 4  # people from whom teeth are drawn
_HEAT, _WARMER = 1.5, 1.2  # difference in cost at which somebody is drawn e times as rarely, and steps to raise it
_EMPHASIS, _MORE, _MOST = 130, 25, 100  # of proportions, in percent: at first, added at each attempt, and in all
_WIDEST = 2  # attempts that draw from more people each
_STREAM = 0x27D4EB2F  # donors are drawn from other random numbers than noise


def attribute_costs(
    model: IdentityModel,
    features: torch.Tensor | None,
    centre: torch.Tensor,
    subspace: AttributeSubspace | None,
    names: Sequence[str],
) -> np.ndarray:
    """Return how badly each synthetic person fits what is kept or asked for, (N,) float64, at least 0.

    Args:
        model: N people.
        features: (R, D) projected attribute features of a face, None where none are read.
        centre: (R, D) features of nobody in particular.
        subspace: of the attributes' words.
        names: the attributes that are kept or changed; no other one counts.
    """
    costs = _ODD * (_column(model, "oddity") - _USUAL).clip(0)
    if features is None or subspace is None:
        return costs
    people, middle = model.features[:, 0].float().cpu(), centre[0].float().cpu()
    face = features[0].float().cpu() - middle
    if people.shape[1] != len(face):  # another encoder than the people were read with
        return costs + _word_costs(model, face, subspace, names)
    if "gender" in names:
        costs = costs + _SEX * (_column(model, "male") - _read_sex(model, face, middle, subspace)) ** 2
    if "age" in names:
        away = np.log(_column(model, "age") + _CHILD) - np.log(_read_age(model, face, middle, subspace) + _CHILD)
        costs = costs + (away / _YEARS) ** 2
    for name in names:
        weight = _WEIGHTS.get(name, 0.0) if name in VOCABULARY else _PHRASE
        if not weight:
            continue
        basis = subspace.bases[name].float().cpu()
        places, wanted = (people - middle) @ basis.T, face @ basis.T
        spread = (places - places.mean(0)).square().sum(1).mean().clamp(min=1e-9)
        costs = costs + weight * ((places - wanted).square().sum(1) / spread).numpy()
    return costs


def _read_sex(model: IdentityModel, face: torch.Tensor, middle: torch.Tensor, subspace: AttributeSubspace) -> float:
    """Return the probability, 0 to 1, that a face is a man's, from its part in the subspace of the words for sexes."""
    basis = subspace.bases["gender"].float().cpu()
    male = torch.from_numpy(_column(model, "male")).float()
    places = ((model.features[:, 0].float().cpu() - middle) @ basis.T)[:, 0]
    towards = torch.sign(places[male > 0.5].mean() - places[male < 0.5].mean())
    return float(torch.sigmoid((towards * (face @ basis.T)[0] + _MIDDLE) / _SURE))


def _read_age(model: IdentityModel, face: torch.Tensor, middle: torch.Tensor, subspace: AttributeSubspace) -> float:
    """Return a face's age, in years, by ridge regression on its part in the subspace of the words for ages."""
    basis = subspace.bases["age"].float().cpu()
    places = ((model.features[:, 0].float().cpu() - middle) @ basis.T).double().numpy()
    ages = np.log(_column(model, "age") + _CHILD)
    centred = places - places.mean(0)
    gram = centred.T @ centred + _RIDGE * len(places) * np.eye(len(basis))
    slope = np.linalg.solve(gram, centred.T @ (ages - ages.mean()))
    age = np.exp(ages.mean() + ((face @ basis.T).double().numpy() - places.mean(0)) @ slope) - _CHILD
    return float(np.interp(_ADULT * (max(age, 0.5) / _ADULT) ** _STRETCH, _LOOKS, _AGES))


def wears_glasses(
    model: IdentityModel, features: torch.Tensor, centre: torch.Tensor, subspace: AttributeSubspace
) -> bool:
    """Return whether a face is read to wear glasses.

    By linear discriminant analysis (Fisher, 1936) of the people's features of the whole face and of the eyes, in the
    subspace of the words for glasses.

    Args:
        model: N people, some of whom wear glasses.
        features: (R, D) projected attribute features of a face.
        centre: (R, D) features of nobody in particular.
        subspace: of the attributes' words.
    """
    rows = [FEATURE_NAMES.index(name) for name in ("face", *SEEN_IN["glasses"])]
    wears, bare = torch.from_numpy(shows_glasses(model)), torch.from_numpy(_column(model, "glasses") < _BARE)
    if model.features.shape[2] != features.shape[1] or min(int(wears.sum()), int(bare.sum())) < 2:
        scores = subspace.scores(features[0] - centre[0].to(features), "glasses", SHARPNESS)
        return subspace.words["glasses"][int(scores.argmax())] != "no glasses"
    basis = subspace.bases["glasses"].double().cpu()
    people, face = (
        ((part.double().cpu() - centre[rows].double().cpu()) @ basis.T).flatten(-2)
        for part in (model.features[:, rows], features[rows])
    )
    groups = people[wears], people[bare]
    means = [group.mean(0) for group in groups]
    rest = torch.cat([group - mean for group, mean in zip(groups, means, strict=True)])
    spread = rest.T @ rest / len(rest)
    spread = spread + _RIDGE * spread.diagonal().mean() * torch.eye(len(spread), dtype=spread.dtype)
    score = torch.linalg.solve(spread, means[0] - means[1]) @ (face - (means[0] + means[1]) / 2)
    return bool(score > np.log((1 - _WEARERS) / _WEARERS))


def glasses_fit(model: IdentityModel, costs: np.ndarray) -> bool:
    """Return whether several people with glasses fit a face nearly as well as others do.

    Args:
        model: N people.
        costs: (N,) from `attribute_costs`.
    """
    wears = np.sort(costs[shows_glasses(model)])
    return len(wears) >= _SEVERAL and bool(wears[_SEVERAL - 1] < costs.min() + _NEARLY)


def shows_glasses(model: IdentityModel) -> np.ndarray:
    """Return (N,) bool, which of the people wear glasses."""
    return _column(model, "glasses") > _WEARS


def _word_costs(
    model: IdentityModel, face: torch.Tensor, subspace: AttributeSubspace, names: Sequence[str]
) -> np.ndarray:
    """(N,) costs by the words that suit a face best: all that encoders of different spaces have in common."""
    costs = np.zeros(len(model))
    if "gender" in names:
        scores = subspace.scores(face, "gender", SHARPNESS)
        male = float(scores[subspace.words["gender"].index("man")])
        costs += _SEX * (_column(model, "male") - male) ** 2
    if "age" in names:
        years = torch.tensor([float(YEARS[word]) for word in subspace.words["age"]])
        age = float(subspace.scores(face, "age", SHARPNESS) @ years)
        away = np.log(_column(model, "age") + _CHILD) - np.log(age + _CHILD)
        costs += (away / _YEARS) ** 2
    return costs


def draw_donors(
    model: IdentityModel,
    costs: np.ndarray,
    shown: FaceMeasures,
    seed: int,
    *,
    glasses: bool,
    steady: bool,
    attempt: int = 0,
) -> Donors:
    """Draw a new person.

    Args:
        model: N people.
        costs: (N,) from `attribute_costs`.
        shown: expression that the new face shows: lips come from people who show it, too.
        seed: who it is, of all that fit.
        glasses: whether the new person wears glasses; nobody who does is drawn otherwise.
        steady: whether the person will be shown with other expressions, too: then the lips are at rest.
        attempt: number of candidates that were refused, or too alike: the more, the more people are drawn from, and the
            more their proportions are emphasised.
    """
    rng, wider = np.random.default_rng(seed ^ _STREAM), 1 + min(attempt, _WIDEST)
    lips = replace(shown, smile=_smile_of_donors(shown.smile), mouth_open=min(shown.mouth_open, _WIDE))
    lips = replace(shown, **_REST) if steady else lips
    allowed = shows_glasses(model) if glasses else _column(model, "glasses") < _BARE
    costs = costs + np.where(allowed, 0, _NEVER)
    lids = _differences(model, shown, _EYES) + _NEVER * (_column(model, "eyes_open") < _CLOSED) * steady
    skin = _draw(costs + lids + _differences(model, lips, _MOUTH), _SKIN, rng, wider)
    near = costs + 0.5 * _distances(model, skin)
    eyes = skin if glasses else _draw(near + lids + _lopsided(model, "eyes") + _dark_eyes(model), _FEATURES, rng, wider)
    nose = skin if glasses else _draw(near, _FEATURES, rng, wider)
    penalties = _lopsided(model, "mouth") + np.where(_column(model, "mouth_open") > _TOO_WIDE, _NEVER, 0)
    mouth = _draw(near + 5 * _differences(model, lips, _MOUTH) + penalties, _MOUTHS, rng, wider)
    emphasis = _EMPHASIS + min(_MORE * attempt, _MOST)
    return show_teeth(model, Donors(skin, eyes, nose, mouth, mouth, emphasis), shown, seed)


def show_teeth(model: IdentityModel, donors: Donors, shown: FaceMeasures, seed: int) -> Donors:
    """Give a person with an open mouth somebody else's teeth if their own do not suit it, the same each time.

    Smiles show teeth; lips that are parted otherwise show less of them.
    """
    if shown.mouth_open < _PARTED:
        return replace(donors, inner=donors.mouth)
    wanted = np.clip(_DARK + _BRIGHTER * shown.smile, *_BRIGHTNESS)
    away = (model.teeth - wanted) / _SUITS
    costs = np.where(away < 0, 2 * away, away) ** 2  # dark teeth are seen, bright ones are not
    gaps = _column(model, "mouth_open")
    if gaps[donors.mouth] >= _PARTED and costs[donors.mouth] < 1:
        return replace(donors, inner=donors.mouth)
    costs = costs + _ODD * _column(model, "oddity") + np.where((gaps < _PARTED) | (gaps > _TOO_WIDE), _NEVER, 0)
    lips = replace(shown, mouth_open=min(shown.mouth_open, _WIDE))
    costs = costs + _differences(model, lips, {"mouth_open": 2 * _MOUTH["mouth_open"]})
    costs = costs + 0.25 * _distances(model, donors.skin)
    best = np.argsort(costs, kind="stable")[:_TEETH]
    odds = _odds(costs[best] - costs[best[0]], _HEAT)
    return replace(donors, inner=int(np.random.default_rng(seed ^ _STREAM ^ 1).choice(best, p=odds)))


def _lopsided(model: IdentityModel, region: str) -> np.ndarray:
    """Return (N,) costs of eyes or mouths whose sides differ, by light from one side, a glance aside or a hand."""
    return _ODD * (model.asymmetry(region) - _LOPSIDED).clip(0)


def _dark_eyes(model: IdentityModel) -> np.ndarray:
    """Return (N,) costs of eyes that show no white: narrow ones, which would be black when drawn wide open."""
    return _ODD * (_LEAST_WHITE - model.eye_whites).clip(0)


def _smile_of_donors(smile: float) -> float:
    """Return how much donors smile whose mixture is to smile so much."""
    return smile if smile < 0 else max(smile, min(_SMILE * smile, _BROADEST))


def _draw(costs: np.ndarray, perplexity: float, rng: np.random.Generator, wider: int = 1) -> int:
    """Draw one of the people, the likelier the less they cost; the odds are as even as so many people's, at least."""
    best = np.argsort(costs, kind="stable")[: _BEST * wider]
    best = best[costs[best] < max(_NEVER, costs[best[0]] + 1)]
    above, heat = costs[best] - costs[best[0]], _HEAT * wider
    perplexity = min(perplexity * wider, 0.8 * len(best))
    while _perplexity(odds := _odds(above, heat)) < perplexity:
        heat *= _WARMER
    return int(rng.choice(best, p=odds))


def _odds(costs: np.ndarray, heat: float) -> np.ndarray:
    """Return probabilities that fall exponentially with the costs."""
    weights = np.exp(-costs / heat)
    return weights / weights.sum()


def _perplexity(odds: np.ndarray) -> float:
    """Return the number of equally likely people among whom a choice would be as open as with these odds."""
    return float(np.exp(-(odds * np.log(odds.clip(1e-12))).sum()))


def _differences(model: IdentityModel, shown: FaceMeasures, scales: Mapping[str, float]) -> np.ndarray:
    """(N,) squared differences of some measures of the mesh, each on its scale."""
    away = [(_column(model, name) - getattr(shown, name)) / scale for name, scale in scales.items()]
    return sum(np.minimum(part**2, _FAR) for part in away)


def _distances(model: IdentityModel, person: int) -> np.ndarray:
    """(N,) differences in age, sex to one of the people: parts of a child and of an old man make no face."""
    male, age = _column(model, "male"), _column(model, "age")
    return 12 * (male - male[person]) ** 2 + ((age - age[person]) / (3 + 0.12 * age[person])) ** 2


def _column(model: IdentityModel, name: str) -> np.ndarray:
    return model.measures[:, MEASURES.index(name)].double().cpu().numpy()
