"""The attributes that can be kept or changed by name, and the words that span each of them."""

from __future__ import annotations

from collections.abc import Mapping

#: Attribute -> contrasting words. Any encoder of images and texts can be asked for them; the embedded one knows the
#: words of `training.captions` best.
VOCABULARY: Mapping[str, tuple[str, ...]] = {
    "expression": ("smiling", "serious", "neutral", "mouth open", "teeth showing", "mouth closed"),
    "age": ("toddler", "child", "teenager", "young", "middle-aged", "elderly"),
    "gender": ("woman", "man"),
    "ethnicity": ("african", "asian", "irish", "native american", "persian", "south-american"),
    "skin": ("very light skin", "light skin", "medium skin", "tan skin", "brown skin", "dark skin"),
    "facial hair": ("beard", "mustache", "clean shaven"),
    "glasses": ("reading glasses", "sunglasses", "no glasses"),
    "makeup": ("makeup", "no makeup"),
    "gaze": ("eyes closed", "eyes open"),
    "pose": ("looking left", "looking right", "facing the camera"),
    "light": ("bright light", "dim light", "light from the left", "light from the right"),
}
#: Attribute -> regions (`faces.labels.REGIONS`) in which it is seen, beside the whole face. The features of the others
#: do not tell of it. A phrase of the user's own may be seen in any.
SEEN_IN: Mapping[str, tuple[str, ...]] = {
    "expression": ("brows", "eyes", "mouth"),
    "age": (),
    "gender": (),
    "ethnicity": (),
    "skin": ("skin",),
    "facial hair": ("mouth",),
    "glasses": ("eyes",),
    "makeup": ("eyes", "mouth"),
    "gaze": ("eyes",),
    "pose": (),
    "light": (),
}
#: Word for an age -> years of a person of whom it is said.
YEARS: Mapping[str, float] = {
    "toddler": 2, "child": 8, "teenager": 16, "young": 27, "middle-aged": 45, "elderly": 66,
}  # fmt: skip
_NOUNS = ("woman", "man", "girl", "boy")


def sentence(word: str) -> str:
    """The caption that says just this of a person."""
    return f"photo of a {word}" if word in _NOUNS else f"photo of a person, {word}"
