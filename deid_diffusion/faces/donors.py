"""Random selection of the synthetic people (donors) from whom a new face is mixed."""

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

#: Attribute -> weight of a squared difference, in standard deviations of the people. Gender, age and glasses are
#: compared as numbers instead; mesh and light carry the others of weight 0.
_WEIGHTS: Mapping[str, float] = {
    "expression": 2.0, "ethnicity": 2.0, "facial hair": 1.0, "makeup": 0.5, "skin": 0.5,
    "gender": 0.0, "age": 0.0, "gaze": 0.0, "pose": 0.0, "light": 0.0, "glasses": 0.0,
}  # fmt: skip
_PHRASE_WEIGHT = 2.0  # of the user's own words
_OTHER_SEX_COST = 16.0
_LOG_AGE_SCALE, _AGE_OFFSET = 0.1, 8.0  # difference of log(age + offset) that costs 1; offset in years
_ADULT_AGE, _AGE_STRETCH = 27.0, 1.3  # ages are read too near to this one, and are stretched away from it in log(age)
#: Apparent ages of mixed faces, and ages of their donors: mixtures of children look older than the children.
_APPARENT_AGES, _DONOR_AGES = (7.0, 13.0, _ADULT_AGE, 75.0), (0.0, 10.0, _ADULT_AGE, 94.0)
_SEX_OFFSET, _SEX_WIDTH = 0.085, 0.07  # threshold, towards women, and width of the logistic on projected features
_RIDGE = 1e-3
_MOUTH_SCALES = {"smile": 0.05, "mouth_open": 0.08}  # `FaceMeasures` differences that count as a standard deviation
_EYE_SCALES = {"eyes_open": 0.07}
_MOUTH_AT_REST = {"smile": 0.05, "mouth_open": 0.0}
_MOUTH_WEIGHT = 5  # of the expression in the choice of the mouth
_MAX_EXPRESSION_COST, _MAX_MOUTH_COST = 4.0, 9.0  # of a measure: for extreme expressions no donor fits
_SMILE_GAIN, _MAX_AMPLIFIED_SMILE = 1.5, 0.13  # donors smile more than their mixtures; `FaceMeasures.smile`
_PARTED_LIPS = 0.06  # `FaceMeasures.mouth_open` from which teeth are visible
_MAX_DONOR_MOUTH_OPEN = 0.24  # `FaceMeasures.mouth_open` of the donors of wider mouths
_TOO_OPEN = 0.36  # `FaceMeasures.mouth_open` above which a texture's lips are the tongue
_MAX_CLOSED_EYES_OPEN = 0.2  # `FaceMeasures.eyes_open` below which eyes may be closed
_MIN_EYE_WHITE = -0.5  # `IdentityModel.eye_whites` below which eyes cost something
_MAX_EYE_HIGHLIGHT, _HIGHLIGHT_COST = 0.18, 80.0  # `IdentityModel.eye_highlights` above which a unit of them costs that
_MAX_ASYMMETRY = 0.85  # `IdentityModel.asymmetry` above which regions cost something
_TEETH_AT_REST, _TEETH_PER_SMILE, _TEETH_RANGE = -0.8, 6.0, (-1.2, -0.1)  # expected `IdentityModel.teeth`
_TEETH_SCALE, _MAX_TEETH_COST = 0.3, 6.0  # difference of `IdentityModel.teeth` that costs 1; most, of a mouth's donor
_MAX_OWN_TEETH_COST = 4.0  # above which lips show another donor's teeth
_EXCLUDED = 1e6  # cost of people who must not be drawn
_WITH_GLASSES, _WITHOUT_GLASSES = 0.75, 0.25  # probability of glasses from which, and up to which, people count
_GLASSES_PRIOR = 0.15  # share of people who wear glasses
_MIN_GLASSES_DONORS, _MAX_GLASSES_COST = 3, 9.0  # that fit, and their cost above the best: sex and age come first
_ODDITY_COST, _MAX_ODDITY = 40.0, 0.3  # cost of an oddity of 1, and oddity above which it counts
_MAX_CANDIDATES = 40  # people that a region is drawn from
_SKIN_PERPLEXITY, _FEATURE_PERPLEXITY, _MOUTH_PERPLEXITY = 7.0, 10.0, 5.0  # least, of the draws per region
_TEETH_CANDIDATES = 4  # people that teeth are drawn from
_TEMPERATURE, _TEMPERATURE_STEP = 1.5, 1.2  # cost difference that divides the odds by e, and factor that raises it
_EMPHASIS, _EMPHASIS_STEP, _MAX_EXTRA_EMPHASIS = 130, 25, 100  # of proportions, in percent; the step is per attempt
_MAX_WIDENING = 2  # attempts that add candidates
_STREAM = 0x27D4EB2F  # separates the random numbers of donors from those of noise


def attribute_costs(
    model: IdentityModel,
    features: torch.Tensor | None,
    centre: torch.Tensor,
    subspace: AttributeSubspace | None,
    names: Sequence[str],
) -> np.ndarray:
    """Return the synthetic people's deviations from the attributes kept or changed, (N,) float64 costs of 0 or more.

    Args:
        model: N people.
        features: (R, D) projected attribute features of a face, or None without an encoder.
        centre: (R, D) mean features.
        subspace: subspaces of the attributes' words.
        names: attributes kept or changed; the others are ignored.
    """
    costs = _ODDITY_COST * (_column(model, "oddity") - _MAX_ODDITY).clip(0)
    if features is None or subspace is None:
        return costs
    people, mean = model.features[:, 0].float().cpu(), centre[0].float().cpu()
    face = features[0].float().cpu() - mean
    if people.shape[1] != len(face):  # from another encoder than the people's features
        return costs + _word_costs(model, face, subspace, names)
    if "gender" in names:
        costs = costs + _OTHER_SEX_COST * (_column(model, "male") - _read_sex(model, face, mean, subspace)) ** 2
    if "age" in names:
        costs = costs + _age_costs(model, _read_age(model, face, mean, subspace))
    for name in names:
        weight = _WEIGHTS.get(name, 0.0) if name in VOCABULARY else _PHRASE_WEIGHT
        if not weight:
            continue
        basis = subspace.bases[name].float().cpu()
        projections, target = (people - mean) @ basis.T, face @ basis.T
        variance = (projections - projections.mean(0)).square().sum(1).mean().clamp(min=1e-9)
        costs = costs + weight * ((projections - target).square().sum(1) / variance).numpy()
    return costs


def _age_costs(model: IdentityModel, age: float) -> np.ndarray:
    """Return (N,) costs of the people's differences from an age in years."""
    difference = np.log(_column(model, "age") + _AGE_OFFSET) - np.log(age + _AGE_OFFSET)
    return (difference / _LOG_AGE_SCALE) ** 2


def _read_sex(model: IdentityModel, face: torch.Tensor, mean: torch.Tensor, subspace: AttributeSubspace) -> float:
    """Return the probability, 0 to 1, that a face is a man's, by its projection on the subspace of the sexes' words."""
    basis = subspace.bases["gender"].float().cpu()
    male = torch.from_numpy(_column(model, "male")).float()
    projections = ((model.features[:, 0].float().cpu() - mean) @ basis.T)[:, 0]
    sign = torch.sign(projections[male > 0.5].mean() - projections[male < 0.5].mean())
    return float(torch.sigmoid((sign * (face @ basis.T)[0] + _SEX_OFFSET) / _SEX_WIDTH))


def _read_age(model: IdentityModel, face: torch.Tensor, mean: torch.Tensor, subspace: AttributeSubspace) -> float:
    """Return a face's age, in years, by ridge regression on its projection on the subspace of the ages' words."""
    basis = subspace.bases["age"].float().cpu()
    projections = ((model.features[:, 0].float().cpu() - mean) @ basis.T).double().numpy()
    log_ages = np.log(_column(model, "age") + _AGE_OFFSET)
    centred = projections - projections.mean(0)
    gram = centred.T @ centred + _RIDGE * len(projections) * np.eye(len(basis))
    slope = np.linalg.solve(gram, centred.T @ (log_ages - log_ages.mean()))
    log_age = log_ages.mean() + ((face @ basis.T).double().numpy() - projections.mean(0)) @ slope
    age = np.exp(log_age) - _AGE_OFFSET
    return float(np.interp(_ADULT_AGE * (max(age, 0.5) / _ADULT_AGE) ** _AGE_STRETCH, _APPARENT_AGES, _DONOR_AGES))


def wears_glasses(
    model: IdentityModel, features: torch.Tensor, centre: torch.Tensor, subspace: AttributeSubspace
) -> bool:
    """Return whether a face wears glasses, by its attribute features.

    Linear discriminant analysis (Fisher, 1936) of the people's features of the full face and the eyes, in the subspace
    of the words for glasses; the words themselves decide if too few people wear glasses.

    Args:
        model: N people, some of whom wear glasses.
        features: (R, D) projected attribute features of a face.
        centre: (R, D) mean features.
        subspace: subspaces of the attributes' words.
    """
    rows = [FEATURE_NAMES.index(name) for name in ("face", *SEEN_IN["glasses"])]
    wearers, others = (
        torch.from_numpy(shows_glasses(model)),
        torch.from_numpy(_column(model, "glasses") < _WITHOUT_GLASSES),
    )
    if model.features.shape[2] != features.shape[1] or min(int(wearers.sum()), int(others.sum())) < 2:
        scores = subspace.scores(features[0] - centre[0].to(features), "glasses", SHARPNESS)
        return subspace.words["glasses"][int(scores.argmax())] != "no glasses"
    basis = subspace.bases["glasses"].double().cpu()
    people, face = (
        ((selected.double().cpu() - centre[rows].double().cpu()) @ basis.T).flatten(-2)
        for selected in (model.features[:, rows], features[rows])
    )
    groups = people[wearers], people[others]
    means = [group.mean(0) for group in groups]
    residuals = torch.cat([group - mean for group, mean in zip(groups, means, strict=True)])
    covariance = residuals.T @ residuals / len(residuals)
    covariance = covariance + _RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
    score = torch.linalg.solve(covariance, means[0] - means[1]) @ (face - (means[0] + means[1]) / 2)
    return bool(score > np.log((1 - _GLASSES_PRIOR) / _GLASSES_PRIOR))


def glasses_fit(model: IdentityModel, costs: np.ndarray) -> bool:
    """Return whether several people with glasses fit a face almost as well as the best of all people.

    Args:
        model: N people.
        costs: (N,) from `attribute_costs`.
    """
    wearer_costs = np.sort(costs[shows_glasses(model)])
    return len(wearer_costs) >= _MIN_GLASSES_DONORS and bool(
        wearer_costs[_MIN_GLASSES_DONORS - 1] < costs.min() + _MAX_GLASSES_COST
    )


def shows_glasses(model: IdentityModel) -> np.ndarray:
    """Return (N,) bool, the people who wear glasses."""
    return _column(model, "glasses") > _WITH_GLASSES


def _word_costs(
    model: IdentityModel, face: torch.Tensor, subspace: AttributeSubspace, names: Sequence[str]
) -> np.ndarray:
    """Return (N,) costs by a face's best words, for features that cannot be compared with the people's."""
    costs = np.zeros(len(model))
    if "gender" in names:
        scores = subspace.scores(face, "gender", SHARPNESS)
        male = float(scores[subspace.words["gender"].index("man")])
        costs += _OTHER_SEX_COST * (_column(model, "male") - male) ** 2
    if "age" in names:
        years = torch.tensor([float(YEARS[word]) for word in subspace.words["age"]])
        age = float(subspace.scores(face, "age", SHARPNESS) @ years)
        costs += _age_costs(model, age)
    return costs


def draw_donors(
    model: IdentityModel,
    costs: np.ndarray,
    expression: FaceMeasures,
    seed: int,
    *,
    glasses: bool,
    steady: bool,
    attempt: int = 0,
    teeth: float | None = None,
) -> Donors:
    """Draw the donors of a new person.

    Args:
        model: N people.
        costs: (N,) from `attribute_costs`.
        expression: measures of the new face; lips and lids come from people with a similar expression.
        seed: selects the person among those who fit.
        glasses: whether the new person wears glasses; if not, all donors are without.
        steady: the person will show other expressions, too, as in a video: lips come from mouths at rest.
        attempt: number of candidates rejected before; it widens the choice and emphasises the proportions.
        teeth: `IdentityModel.teeth` to show in an open mouth; without it, they follow from the smile.
    """
    rng, widening = np.random.default_rng(seed ^ _STREAM), 1 + min(attempt, _MAX_WIDENING)
    open_lips = min(expression.mouth_open, _MAX_DONOR_MOUTH_OPEN)
    lips = replace(expression, smile=_donor_smile(expression.smile), mouth_open=open_lips)
    lips = replace(expression, **_MOUTH_AT_REST) if steady else lips
    allowed = shows_glasses(model) if glasses else _column(model, "glasses") < _WITHOUT_GLASSES
    costs = costs + np.where(allowed, 0, _EXCLUDED)
    lids = _expression_costs(model, expression, _EYE_SCALES)
    lids = lids + _EXCLUDED * (_column(model, "eyes_open") < _MAX_CLOSED_EYES_OPEN) * steady
    mouths = _expression_costs(model, lips, _MOUTH_SCALES)
    skin = _draw(costs + lids + mouths, _SKIN_PERPLEXITY, rng, widening)
    matching = costs + 0.5 * _mismatch(model, skin)
    eyes = nose = skin
    if not glasses:  # frames must not be cut at the regions' edges
        eye_costs = matching + lids + _asymmetry_costs(model, "eyes") + _eye_costs(model)
        eyes = _draw(eye_costs, _FEATURE_PERPLEXITY, rng, widening)
        nose = _draw(matching, _FEATURE_PERPLEXITY, rng, widening)
    penalties = _asymmetry_costs(model, "mouth") + np.where(_column(model, "mouth_open") > _TOO_OPEN, _EXCLUDED, 0)
    if expression.mouth_open >= _PARTED_LIPS and not steady:
        penalties = penalties + np.minimum(_teeth_costs(model, expression, teeth), _MAX_TEETH_COST)
    penalties = penalties + _MOUTH_WEIGHT * _expression_costs(model, lips, _MOUTH_SCALES, _MAX_MOUTH_COST)
    # few mouths fit: other attributes count half, and later candidates differ in the other regions
    mouth = _draw(0.5 * matching + penalties, _MOUTH_PERPLEXITY, rng, 1)
    emphasis = _EMPHASIS + min(_EMPHASIS_STEP * attempt, _MAX_EXTRA_EMPHASIS)
    return show_teeth(model, Donors(skin, eyes, nose, mouth, mouth, emphasis), expression, seed, teeth)


def show_teeth(
    model: IdentityModel, donors: Donors, expression: FaceMeasures, seed: int, teeth: float | None = None
) -> Donors:
    """Replace the donor of the mouth's interior if its teeth do not suit an open mouth; equal seeds, equal donors.

    Without a brightness, smiles show bright teeth, other open mouths darker ones.

    Args:
        model: N people.
        donors: donors of the new person.
        expression: measures of the new face.
        seed: as of `draw_donors`.
        teeth: as of `draw_donors`.
    """
    if expression.mouth_open < _PARTED_LIPS:
        return replace(donors, inner=donors.mouth)
    costs = _teeth_costs(model, expression, teeth)
    openings = _column(model, "mouth_open")
    if openings[donors.mouth] >= _PARTED_LIPS and costs[donors.mouth] < _MAX_OWN_TEETH_COST:
        return replace(donors, inner=donors.mouth)
    unsuitable = (openings < _PARTED_LIPS) | (openings > _TOO_OPEN)
    costs = costs + _ODDITY_COST * _column(model, "oddity") + np.where(unsuitable, _EXCLUDED, 0)
    lips = replace(expression, mouth_open=min(expression.mouth_open, _MAX_DONOR_MOUTH_OPEN))
    costs = costs + _expression_costs(model, lips, {"mouth_open": 2 * _MOUTH_SCALES["mouth_open"]})
    costs = costs + 0.25 * _mismatch(model, donors.skin)
    best = np.argsort(costs, kind="stable")[:_TEETH_CANDIDATES]
    odds = _odds(costs[best] - costs[best[0]], _TEMPERATURE)
    return replace(donors, inner=int(np.random.default_rng(seed ^ _STREAM ^ 1).choice(best, p=odds)))


def _teeth_costs(model: IdentityModel, expression: FaceMeasures, teeth: float | None) -> np.ndarray:
    """Return (N,) costs of differences from the teeth to show; dark ones are more conspicuous than bright ones."""
    expected = _TEETH_AT_REST + _TEETH_PER_SMILE * expression.smile if teeth is None else teeth
    difference = (model.teeth - np.clip(expected, *_TEETH_RANGE)) / _TEETH_SCALE
    return np.where(difference < 0, 2 * difference, difference) ** 2


def _asymmetry_costs(model: IdentityModel, region: str) -> np.ndarray:
    """Return (N,) costs of asymmetric eyes or mouths: side light, an averted gaze or a hand in the texture."""
    return _ODDITY_COST * (model.asymmetry(region) - _MAX_ASYMMETRY).clip(0)


def _eye_costs(model: IdentityModel) -> np.ndarray:
    """Return (N,) costs of narrow eyes without visible white, black when opened wide, and of highlights around eyes."""
    highlights = _HIGHLIGHT_COST * (model.eye_highlights - _MAX_EYE_HIGHLIGHT).clip(0)
    return _ODDITY_COST * (_MIN_EYE_WHITE - model.eye_whites).clip(0) + highlights


def _donor_smile(smile: float) -> float:
    """Return the smile of donors whose mixture has a given smile."""
    return smile if smile < 0 else max(smile, min(_SMILE_GAIN * smile, _MAX_AMPLIFIED_SMILE))


def _draw(costs: np.ndarray, perplexity: float, rng: np.random.Generator, widening: int) -> int:
    """Draw a person with odds that fall with the costs, at a temperature that gives at least the perplexity."""
    best = np.argsort(costs, kind="stable")[: _MAX_CANDIDATES * widening]
    best = best[costs[best] < max(_EXCLUDED, costs[best[0]] + 1)]
    excess, temperature = costs[best] - costs[best[0]], _TEMPERATURE * widening
    perplexity = min(perplexity * widening, 0.8 * len(best))
    while _perplexity(odds := _odds(excess, temperature)) < perplexity:
        temperature *= _TEMPERATURE_STEP
    return int(rng.choice(best, p=odds))


def _odds(costs: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities that fall exponentially with the costs."""
    weights = np.exp(-costs / temperature)
    return weights / weights.sum()


def _perplexity(odds: np.ndarray) -> float:
    """Return the exponential of a distribution's entropy."""
    return float(np.exp(-(odds * np.log(odds.clip(1e-12))).sum()))


def _expression_costs(
    model: IdentityModel, expression: FaceMeasures, scales: Mapping[str, float], bound: float = _MAX_EXPRESSION_COST
) -> np.ndarray:
    """Return (N,) sums of squared, scaled and bounded differences of `FaceMeasures`."""
    differences = [(_column(model, name) - getattr(expression, name)) / scale for name, scale in scales.items()]
    return sum(np.minimum(difference**2, bound) for difference in differences)


def _mismatch(model: IdentityModel, person: int) -> np.ndarray:
    """Return (N,) differences in sex and age from a person, as regions of a child and an old man do not match."""
    male, age = _column(model, "male"), _column(model, "age")
    return 12 * (male - male[person]) ** 2 + ((age - age[person]) / (3 + 0.12 * age[person])) ** 2


def _column(model: IdentityModel, name: str) -> np.ndarray:
    """Return (N,) float64, a column of `IdentityModel.measures`."""
    return model.measures[:, MEASURES.index(name)].double().cpu().numpy()
