"""Captions of face crops: known and measured facts, put into words by templates."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
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

_KEEP_ALL, _KEEP_NONE = 0.4, 0.08  # shares of faces that keep all attributes, and none
_KEEP = 0.6  # share of attributes that the other faces keep
_WORDS = 0.2  # share of known attributes that are encoded from their word instead of the crop
#: Attribute -> the fact whose phrases are its words.
_FACT_OF = {"gender": "person", "age": "age", "expression": "expression", "skin": "skin"}


class RandomSelection:
    """Random selection of the attributes that are kept, and of those that are given as words."""

    def __init__(self, subspace: AttributeSubspace) -> None:
        self.subspace = subspace
        self.codes = {
            name: torch.tensor([zlib.crc32(word.encode()) for word in subspace.words[name]]) for name in _FACT_OF
        }

    def __call__(self, features: torch.Tensor, facts: torch.Tensor, adapter: AttributeAdapter) -> torch.Tensor:
        """Return (B, N, D) features with a random selection of attributes each.

        `facts` are the (B, F) codes of the faces' facts; the adapter has the features' centre and the scale of phrases.
        """
        return torch.stack([self._select(*row, adapter) for row in zip(features, facts, strict=True)])

    def _select(self, feature: torch.Tensor, facts: torch.Tensor, adapter: AttributeAdapter) -> torch.Tensor:
        names = tuple(self.subspace.words)
        kind, draws = torch.rand(1 + len(names)).split([1, len(names)])
        keep = [name for name, draw in zip(names, draws.tolist(), strict=True) if kind < _KEEP_ALL or draw < _KEEP]
        if _KEEP_ALL <= float(kind) < _KEEP_ALL + _KEEP_NONE:
            keep = []
        scale = float(adapter.phrase_scale)
        selected = self.subspace.project(feature, keep, adapter.centre, self.subspace.quantization_step(scale))
        for name, codes in self.codes.items():
            matches = (codes == facts[FACTS.index(_FACT_OF[name])].cpu()).nonzero()
            if name in keep and len(matches) and torch.rand(()) < _WORDS:
                word = self.subspace.words[name][int(matches[0])]
                selected = self.subspace.change(selected, name, word, adapter.centre, scale)
        return selected


_CHILD = re.compile(r"toddler|child|baby|infant|kid\b|little (girl|boy)|(?<!\d)(\d{1,2}(\.\d)?) ?-?year")
#: Names of the facts of a face.
FACTS = ("person", "age", "years", "skin", "expression", "mouth", "eyes", "glasses", "pose", "picture", "text")
#: Facts grouped by the attribute that they describe.
ATTRIBUTES = (
    ("person",), ("age", "years"), ("skin",), ("expression", "mouth"), ("eyes",), ("glasses",), ("pose",), ("picture",),
)  # fmt: skip
#: Individual typology angle in degrees (Chardon et al., 1991) -> word, lightest first.
_SKIN = ((55, "very light"), (41, "light"), (28, "medium"), (10, "tan"), (-30, "brown"))


def skin_tone(crop: np.ndarray, labels: np.ndarray) -> str:
    """Return a word for the skin's lightness, by the individual typology angle of its median colour.

    The crop is (S, S, 3) uint8 RGB, its semantic map (S, S).
    """
    lab = cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[labels == LABEL["skin"]]
    if not len(lab):
        return "medium"
    lightness, _, yellow = np.median(lab, axis=0)
    angle = float(np.degrees(np.arctan2(lightness - 50, max(float(yellow), 1e-3))))
    return next((word for limit, word in _SKIN if angle > limit), "dark")


def describe_face(row: Mapping[str, Any], crop: np.ndarray, mesh: np.ndarray) -> dict[str, str]:
    """Return the known facts of a face: a phrase for each name of `FACTS`.

    Of the cache's row, ``text``, ``predicted_male``, ``predicted_age``, ``grey`` and glasses are read; the crop is
    (S, S, 3) uint8 RGB, its mesh (478, 2).
    """
    facts: dict[str, str] = {}
    text = row.get("text", "").lower()
    male = float(row.get("predicted_male") or 0.5)
    age = float(row.get("predicted_age") or 0)
    written_age = re.search(r"(?<![\d.])(\d{1,2}(?:\.\d)?)[ -]year", text)
    if written_age:
        age = float(written_age[1])
    elif _CHILD.search(text):
        age = 6
    noun = ("woman", "man") if age >= 16 or not age else ("girl", "boy")
    if not 0.3 <= male <= 0.7:
        facts["person"] = noun[1] if male > 0.5 else noun[0]
    if age:
        words = ((3, "toddler"), (13, "child"), (20, "teenager"), (35, "young"), (55, "middle-aged"), (200, "elderly"))
        facts["age"] = next(word for limit, word in words if age < limit)
        facts["years"] = f"about {5 * round(age / 5)} years old"
    if not row.get("grey"):
        facts["skin"] = f"{skin_tone(crop, draw_semantic_map(mesh, len(crop)))} skin"
    face = measure(mesh)
    facts["expression"] = "smiling" if face.smile > 0.1 else "serious" if face.smile < 0.04 else "neutral"
    facts["mouth"] = (
        "mouth open" if face.mouth_open > 0.3 else "teeth showing" if face.mouth_open > 0.1 else "mouth closed"
    )
    if face.eyes_open < 0.16:
        facts["eyes"] = "eyes closed"
    if glasses := glasses_word(row):
        facts["glasses"] = glasses
    side = "left" if face.yaw < 0 else "right"
    facts["pose"] = f"looking {side}" if abs(face.yaw) > 0.35 else "facing the camera"
    facts["picture"] = "black and white photo" if row.get("grey") else "colour photo"
    if text and not written_age:
        facts["text"] = text.split(";")[0].strip()
    return facts


def without_colour(facts: Mapping[str, str]) -> dict[str, str]:
    """Return the facts of the same face in a greyscale picture."""
    return {name: text for name, text in facts.items() if name != "skin"} | {"picture": "black and white photo"}


def sample_facts(facts: Mapping[str, str], rng: np.random.Generator, keep: float = 0.75) -> dict[str, str]:
    """Return a random subset of a face's facts, each with probability ``keep``, in random order."""
    names = [name for name in facts if rng.random() < keep]
    rng.shuffle(names)
    return {name: facts[name] for name in names}


def write_caption(facts: Mapping[str, str]) -> str:
    """Return one sentence that states the facts in their order, and nothing else."""
    opening = f"{facts.get('picture', 'photo')} of a {facts.get('person', 'person')}"
    return ", ".join([opening, *(text for name, text in facts.items() if name not in ("person", "picture"))])


def matching_captions(facts: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
    """Return (B, C) bool: whether each caption is true of each face.

    Facts are coded: (B, F) of the faces, (C, F) of the captions, 0 for those that a caption leaves out.
    """
    return ((facts[:, None] == captions[None]) | (captions[None] == 0)).all(-1)


def fact_codes(facts: Mapping[str, str]) -> torch.Tensor:
    """Return (F,) int64, the CRC-32 of the phrase for each of `FACTS`, 0 for unknown facts."""
    return torch.tensor([zlib.crc32(facts[name].encode()) if name in facts else 0 for name in FACTS])


GLASSES_THRESHOLD = 0.75  # probability above which a face counts as wearing glasses
NO_GLASSES_THRESHOLD = 0.03  # probability below which a face counts as wearing none
_STATED, _STATED_NOT = "glasses", "no glasses"
_TEXELS = 128  # side of the texture that the strip over the eyes is cut from
_STRIP = (128, 64)  # its width and height, in pixels
_ABOVE, _BELOW = 3, 5  # texels that the strip extends above the brows and below the tip of the nose
_MIN_EXAMPLES = 8  # pictures whose texts mention glasses, and do not, for a classifier
_COMPONENTS, _FOLDS, _ROUNDS = 150, 8, 4  # of PCA, cross-validation and self-training


def eye_strip(picture: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """Return a face unwrapped from its brows to the tip of its nose, (64, 128) float32 luminance in 0..1.

    The picture is (H, W, 3) uint8 RGB, its mesh (478, 2).
    """
    top, bottom = _strip_rows()
    texture, _ = unwrap_face(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), mesh, _TEXELS)
    return cv2.resize(texture[top:bottom].astype(np.float32) / 255, _STRIP, interpolation=cv2.INTER_AREA)


def states_glasses(row: Mapping[str, Any]) -> bool:
    """Return whether a row's text mentions that glasses are worn."""
    text = row.get("text", "").lower()
    return _STATED in text and _STATED_NOT not in text


def glasses_word(row: Mapping[str, Any]) -> str | None:
    """Return the vocabulary's word for the glasses of a cache's or manifest's row, or None if unknown."""
    probability = row.get("glasses_probability", 1.0 if states_glasses(row) else None)
    if probability is None or NO_GLASSES_THRESHOLD <= probability <= GLASSES_THRESHOLD:
        return None
    if probability < NO_GLASSES_THRESHOLD:
        return "no glasses"
    return "sunglasses" if "sunglasses" in row.get("text", "").lower() else "reading glasses"


def label_glasses(
    rows: Sequence[Mapping[str, Any]], pictures: Sequence[np.ndarray], meshes: Sequence[np.ndarray]
) -> list[dict[str, Any]]:
    """Return the N rows of a cache with a ``glasses_probability`` each, unchanged if too few texts mention glasses.

    The first row of each ``file`` is classified, by its picture, (H, W, 3) uint8 RGB, and mesh, (478, 2) pixels; the
    others share its label.
    """
    first = {row["file"]: index for index, row in reversed(list(enumerate(rows)))}
    stated = np.array([states_glasses(rows[index]) for index in first.values()])
    if min(stated.sum(), (~stated).sum()) < _MIN_EXAMPLES:
        return [dict(row) for row in rows]
    strips = [eye_strip(pictures[index], meshes[index]) for index in first.values()]
    probabilities = dict(zip(first, glasses_probability(strips, stated).tolist(), strict=True))
    return [{**row, "glasses_probability": probabilities[row["file"]]} for row in rows]


def glasses_probability(strips: Sequence[np.ndarray], stated: np.ndarray) -> np.ndarray:
    """Return (N,) probabilities that glasses are worn; 1 where stated and 0 elsewhere if examples are too few.

    A logistic regression on histograms of oriented gradients (Dalal & Triggs, CVPR 2005) of `eye_strip`, with
    self-training: texts mention few of the glasses that pictures show, so confident positives become labels of the next
    round. `stated` is (N,) bool, whether each text mentions glasses.
    """
    if stated.sum() < _MIN_EXAMPLES or (~stated).sum() < _MIN_EXAMPLES:
        return stated.astype(float)
    from skimage.feature import hog
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    gradients = np.stack([hog(strip, 8, (8, 8), (2, 2)) for strip in strips])
    components = PCA(min(_COMPONENTS, len(gradients) - 1), random_state=0).fit_transform(gradients)
    positive, probability = stated.copy(), stated.astype(float)
    for _ in range(_ROUNDS):
        classifier = LogisticRegression(C=3.0, class_weight="balanced", max_iter=500)
        probability = cross_val_predict(classifier, components, positive, cv=_FOLDS, method="predict_proba")[:, 1]
        positive = stated | (probability > GLASSES_THRESHOLD)
    return np.maximum(probability, stated)


@cache
def _strip_rows() -> tuple[int, int]:
    """Return the strip's first row and the row after its last."""
    frame = texture_mesh(_TEXELS)
    top = int(frame[[brow[2] for brow in MESH_BROWS], 1].min()) - _ABOVE
    return max(0, top), int(frame[1, 1]) + _BELOW
