"""Captions for face crops: what is known of a face and what is measured on it, phrased by a few templates."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch

from ..attributes.subspace import AttributeSubspace
from ..faces.landmarks import MESH_BROWS, measure
from ..faces.semantic_map import LABEL, draw_semantic_map
from ..faces.texture import texture_mesh, unwrap_face
from ..models.attribute_adapter import AttributeAdapter

#: Share of faces of which everything is kept, of those of which nothing is, and of attributes kept of the others.
_ALL, _NONE, _KEPT = 0.4, 0.08, 0.6
_SPOKEN = 0.2  # share of known attributes whose word takes the place of what the encoder read
_CHANGED = 0.3  # share of the faces that may be changed to which that happens
#: Attribute -> the fact whose phrases are its words.
_TAUGHT = {"gender": "person", "age": "age", "expression": "expression", "skin": "skin"}
_CHANGEABLE = ("gender", "age")


@dataclass(frozen=True, eq=False)
class SelectedFeatures:
    """Wishes for B faces.

    Attributes:
        features: (B, N, D), what is kept of them, changes made.
        kept: (B, N, D), the same less the centre: 0 where nothing is kept.
        facts: (B, F) codes, those that were changed or no longer hold included.
        changed: (B,) bool.
    """

    features: torch.Tensor
    kept: torch.Tensor
    facts: torch.Tensor
    changed: torch.Tensor


class RandomSelection:
    """Draws for each face which attributes are kept, which are told in words, and which are changed."""

    def __init__(self, subspace: AttributeSubspace) -> None:
        self.subspace = subspace
        self.codes = {
            name: torch.tensor([zlib.crc32(word.encode()) for word in subspace.words[name]]) for name in _TAUGHT
        }

    def __call__(
        self, features: torch.Tensor, facts: torch.Tensor, free: torch.Tensor, adapter: AttributeAdapter
    ) -> SelectedFeatures:
        """Wishes for B faces.

        Args:
            features: (B, N, D).
            facts: (B, F) codes of what is known of each face.
            free: (B,) bool, faces that are painted from noise alone and so may be changed.
            adapter: whose centre and scale of phrases count.
        """
        drawn = [self._of_one(*row, adapter) for row in zip(features, facts, free.tolist(), strict=True)]
        made, codes, changed = (list(column) for column in zip(*drawn, strict=True))
        wished = torch.stack(made)
        device = features.device
        return SelectedFeatures(
            wished, wished - adapter.centre, torch.stack(codes), torch.tensor(changed, device=device)
        )

    def _of_one(
        self, feature: torch.Tensor, facts: torch.Tensor, free: bool, adapter: AttributeAdapter
    ) -> tuple[torch.Tensor, torch.Tensor, bool]:
        names = tuple(self.subspace.words)
        kind, draw = torch.rand(2 + len(names)).split([2, len(names)])
        keep = [name for name, share in zip(names, draw.tolist(), strict=True) if kind[0] < _ALL or share < _KEPT]
        if _ALL <= float(kind[0]) < _ALL + _NONE:
            keep = []
        scale = float(adapter.phrase_scale)
        made = self.subspace.project(feature, keep, adapter.centre, self.subspace.grain(scale))
        told, facts = self._told(keep, facts), facts.clone()
        changes: Mapping[str, str] = {}
        if free and kind[1] < _CHANGED:
            changes = self._changes([name for name in _CHANGEABLE if name in told], facts)
        for name, word in {**told, **changes}.items():
            if name in changes or torch.rand(()) < _SPOKEN:
                made = self.subspace.change(made, name, word, adapter.centre, scale)
        return made, facts, bool(changes)

    def _told(self, keep: list[str], facts: torch.Tensor) -> dict[str, str]:
        """Attribute -> the word that is true of a face, for those that are kept and known."""
        told = {}
        for name in _TAUGHT:
            true = (self.codes[name] == facts[FACTS.index(_TAUGHT[name])].cpu()).nonzero()
            if name in keep and len(true):
                told[name] = self.subspace.words[name][int(true[0])]
        return told

    def _changes(self, names: list[str], facts: torch.Tensor) -> Mapping[str, str]:
        """Another word for one of the attributes; the facts are changed with it."""
        if not names:
            return {}
        name = names[int(torch.randint(len(names), ()))]
        words, codes = self.subspace.words[name], self.codes[name]
        others = [k for k, code in enumerate(codes.tolist()) if code != int(facts[FACTS.index(_TAUGHT[name])])]
        chosen = others[int(torch.randint(len(others), ()))]
        facts[FACTS.index(_TAUGHT[name])] = codes[chosen]
        for other in ("years", "text") if name == "age" else ("text",):
            facts[FACTS.index(other)] = 0
        return {name: words[chosen]}


_CHILD = re.compile(r"toddler|child|baby|infant|kid\b|little (girl|boy)|(?<!\d)(\d{1,2}(\.\d)?) ?-?year")
#: What can be known of a face.
FACTS = ("person", "age", "years", "skin", "expression", "mouth", "eyes", "glasses", "pose", "picture", "text")
#: Facts that speak of one attribute.
ATTRIBUTES = (
    ("person",), ("age", "years"), ("skin",), ("expression", "mouth"), ("eyes",), ("glasses",), ("pose",), ("picture",),
)  # fmt: skip
#: Individual typology angle in degrees (Chardon et al., 1991) -> word, lightest first.
_SKIN = ((55, "very light"), (41, "light"), (28, "medium"), (10, "tan"), (-30, "brown"))


def skin_tone(crop: np.ndarray, labels: np.ndarray) -> str:
    """A word for the skin's lightness, by the individual typology angle of its median colour.

    Args:
        crop: (S, S, 3) uint8 RGB.
        labels: (S, S) semantic map.
    """
    lab = cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[labels == LABEL["skin"]]
    if not len(lab):
        return "medium"
    lightness, _, yellow = np.median(lab, axis=0)
    angle = float(np.degrees(np.arctan2(lightness - 50, max(float(yellow), 1e-3))))
    return next((word for limit, word in _SKIN if angle > limit), "dark")


def facts(row: Mapping[str, str], crop: np.ndarray, mesh: np.ndarray) -> dict[str, str]:
    """What can be said of one face: a phrase for each of ``FACTS`` that is known."""
    said: dict[str, str] = {}
    text = row.get("text", "").lower()
    male = float(row.get("predicted_male") or 0.5)
    age = float(row.get("predicted_age") or 0)
    written = re.search(r"(?<![\d.])(\d{1,2}(?:\.\d)?)[ -]year", text)
    if written:
        age = float(written[1])
    elif _CHILD.search(text):
        age = 6
    noun = ("woman", "man") if age >= 16 or not age else ("girl", "boy")
    if not 0.3 <= male <= 0.7:
        said["person"] = noun[1] if male > 0.5 else noun[0]
    if age:
        words = ((3, "toddler"), (13, "child"), (20, "teenager"), (35, "young"), (55, "middle-aged"), (200, "elderly"))
        said["age"] = next(word for limit, word in words if age < limit)
        said["years"] = f"about {5 * round(age / 5)} years old"
    if not row.get("grey"):
        said["skin"] = f"{skin_tone(crop, draw_semantic_map(mesh, len(crop)))} skin"
    found = measure(mesh)
    mouth = "mouth open" if found.mouth_open > 0.3 else "teeth showing" if found.mouth_open > 0.1 else "mouth closed"
    said["expression"] = "smiling" if found.smile > 0.1 else "serious" if found.smile < 0.04 else "neutral"
    said["mouth"] = mouth
    if found.eyes_open < 0.16:
        said["eyes"] = "eyes closed"
    if glasses := glasses_word(row):
        said["glasses"] = glasses
    turn = "left" if found.yaw < 0 else "right"
    said["pose"] = f"looking {turn}" if abs(found.yaw) > 0.35 else "facing the camera"
    said["picture"] = "black and white photo" if row.get("grey") else "colour photo"
    if text and not written:
        said["text"] = text.split(";")[0].strip()
    return said


def greyed(said: Mapping[str, str]) -> dict[str, str]:
    """The facts of the same face in a picture without colour."""
    return {name: phrase for name, phrase in said.items() if name != "skin"} | {"picture": "black and white photo"}


def sample_facts(said: Mapping[str, str], rng: np.random.Generator, keep: float = 0.75) -> dict[str, str]:
    """Some of a face's facts, each with probability ``keep``, in random order."""
    names = [name for name in said if rng.random() < keep]
    rng.shuffle(names)
    return {name: said[name] for name in names}


def phrase(said: Mapping[str, str]) -> str:
    """One sentence that says just these facts, in this order."""
    opening = f"{said.get('picture', 'photo')} of a {said.get('person', 'person')}"
    return ", ".join([opening, *(text for name, text in said.items() if name not in ("person", "picture"))])


def matching_captions(facts: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
    """Which captions are true of which faces: (B, C) bool.

    Args:
        facts: (B, F) int64 codes of what is known of each face.
        captions: (C, F) codes of what each caption says, 0 where it says nothing.
    """
    return ((facts[:, None] == captions[None]) | (captions[None] == 0)).all(-1)


def codes(said: Mapping[str, str]) -> torch.Tensor:
    """(F,) int64, a checksum of the phrase for each of ``FACTS``, 0 where there is none."""
    return torch.tensor([zlib.crc32(said[name].encode()) if name in said else 0 for name in FACTS])


SURE = 0.75
"""Probability from which somebody counts as wearing glasses."""


SURELY_NOT = 0.03
"""Probability under which somebody counts as wearing none."""


_TEXELS = 128  # side of the texture that the strip over the eyes is cut from


_STRIP = (128, 64)  # width and height, in pixels


_LEAST = 8  # pictures with glasses, and without


def eye_strip(picture: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """Unwrap a face from its brows to the tip of its nose.

    Args:
        picture: (H, W, 3) uint8 RGB.
        mesh: (478, 2) its pixels.

    Returns:
        (64, 128) float32, luminance in 0..1.
    """
    top, bottom = _rows()
    texture, _ = unwrap_face(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), mesh, _TEXELS)
    return cv2.resize(texture[top:bottom].astype(np.float32) / 255, _STRIP, interpolation=cv2.INTER_AREA)


def states_glasses(row: Mapping[str, Any]) -> bool:
    """Return whether the text of a manifest's row says that somebody wears glasses."""
    text = row.get("text", "").lower()
    return _GLASSES in text and _NO_GLASSES not in text


def glasses_word(row: Mapping[str, Any]) -> str | None:
    """Return what a row says of glasses, a word of the vocabulary; None where nothing is known.

    Args:
        row: of a manifest, with the ``glasses_probability`` that `label_glasses` adds.
    """
    probability = row.get("glasses_probability", 1.0 if states_glasses(row) else None)
    if probability is None or SURELY_NOT <= probability <= SURE:
        return None
    if probability < SURELY_NOT:
        return "no glasses"
    return "sunglasses" if "sunglasses" in row.get("text", "").lower() else "reading glasses"


def label_glasses(
    rows: Sequence[Mapping[str, Any]], pictures: Sequence[np.ndarray], meshes: Sequence[np.ndarray]
) -> list[dict[str, Any]]:
    """Return N rows with a ``glasses_probability`` each; as they were where too few texts speak of glasses.

    Args:
        rows: of a manifest; of those of one ``file`` the first is looked at.
        pictures: N of (H, W, 3) uint8 RGB.
        meshes: N of (478, 2), their pixels.
    """
    first = {row["file"]: index for index, row in reversed(list(enumerate(rows)))}
    told = np.array([states_glasses(rows[index]) for index in first.values()])
    if min(told.sum(), (~told).sum()) < _LEAST:
        return [dict(row) for row in rows]
    strips = [eye_strip(pictures[index], meshes[index]) for index in first.values()]
    of_file = dict(zip(first, glasses_probability(strips, told).tolist(), strict=True))
    return [{**row, "glasses_probability": of_file[row["file"]]} for row in rows]


def glasses_probability(strips: Sequence[np.ndarray], told: np.ndarray) -> np.ndarray:
    """Return (N,) probabilities that people wear glasses; 1 for those who are told where too few are, 0 for others.

    A logistic regression on histograms of oriented gradients (Dalal & Triggs, CVPR 2005). Texts name glasses on few of
    the pictures that show them: what is very likely counts as told in the next round.

    Args:
        strips: N of `eye_strip`.
        told: (N,) bool, whose text says so.
    """
    if told.sum() < _LEAST or (~told).sum() < _LEAST:
        return told.astype(float)
    from skimage.feature import hog
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    edges = np.stack([hog(strip, 8, (8, 8), (2, 2)) for strip in strips])
    numbers = PCA(min(_COMPONENTS, len(edges) - 1), random_state=0).fit_transform(edges)
    positive, probability = told.copy(), told.astype(float)
    for _ in range(_ROUNDS):
        classifier = LogisticRegression(C=3.0, class_weight="balanced", max_iter=500)
        probability = cross_val_predict(classifier, numbers, positive, cv=_FOLDS, method="predict_proba")[:, 1]
        positive = told | (probability > SURE)
    return np.maximum(probability, told)


_GLASSES, _NO_GLASSES = "glasses", "no glasses"


_COMPONENTS, _FOLDS, _ROUNDS = 150, 8, 4


@cache
def _rows() -> tuple[int, int]:
    """First row of the strip, and the one after its last."""
    frame = texture_mesh(_TEXELS)
    top = int(frame[[brow[2] for brow in MESH_BROWS], 1].min()) - _ABOVE
    return max(0, top), int(frame[1, 1]) + _BELOW


_ABOVE, _BELOW = 3, 5  # texels above the brows and below the tip of the nose
