"""Built-in attributes and the words that describe them."""

from __future__ import annotations

from collections.abc import Mapping

#: Attribute -> contrasting words. Any image-text encoder can be queried with them; the built-in one was trained on the
#: words of `training.captions`.
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
#: Attribute -> regions (`semantic_map.REGIONS`) that show it, in addition to the entire face; the features of all other
#: regions drop it. A user's phrase may show in any region.
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
#: Word for an age -> typical age in years.
YEARS: Mapping[str, float] = {
    "toddler": 2, "child": 8, "teenager": 16, "young": 27, "middle-aged": 45, "elderly": 66,
}  # fmt: skip
_NOUNS = ("woman", "man", "girl", "boy")


def sentence(word: str) -> str:
    """Return the caption that describes a person by one word."""
    return f"photo of a {word}" if word in _NOUNS else f"photo of a person, {word}"
