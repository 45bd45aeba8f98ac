import numpy as np
import pytest

from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.training.glasses import eye_strip, glasses_probability, glasses_word, is_told, label_glasses


def faces(count: int, glasses: bool) -> list[np.ndarray]:
    """Grey noise, with or without two dark rings."""
    mesh, pictures = mean_mesh(96), []
    rows, columns = np.mgrid[:96, :96]
    for seed in range(count):
        rng = np.random.default_rng(seed + 100 * glasses)
        picture = rng.integers(120, 160, (96, 96, 3)).astype(np.uint8)
        for eye in (468, 473):
            distance = np.hypot(columns - mesh[eye, 0], rows - mesh[eye, 1])
            if glasses:
                picture[np.abs(distance - 10) < 1.5] = 20
        pictures.append(picture)
    return pictures


def test_glasses_that_no_text_names_are_seen() -> None:
    pictures = [*faces(24, True), *faces(24, False)]
    told = np.arange(48) < 16
    probability = glasses_probability([eye_strip(picture, mean_mesh(96)) for picture in pictures], told)
    assert probability[16:24].min() > probability[24:].max()


def test_rows_of_one_file_share_the_label() -> None:
    pictures = [*faces(10, True), *faces(10, False)]
    texts = ["man with glasses"] * 8 + [""] * 12
    rows = [{"file": f"{k}.jpg", "text": text} for k, text in enumerate(texts)]
    labelled = label_glasses([*rows, rows[9]], [*pictures, pictures[0]], [mean_mesh(96)] * 21)
    assert labelled[20]["glasses_probability"] == labelled[9]["glasses_probability"]
    assert glasses_word(labelled[0]) == "reading glasses"


def test_nothing_is_said_where_too_few_texts_tell() -> None:
    rows = [{"file": f"{k}.jpg", "text": ""} for k in range(20)]
    labelled = label_glasses(rows, faces(20, False), [mean_mesh(96)] * 20)
    assert {glasses_word(row) for row in labelled} == {None}


@pytest.mark.parametrize(
    ("text", "probability", "word"),
    [
        ("person wearing sunglasses", None, "sunglasses"),
        ("a woman with glasses", None, "reading glasses"),
        ("a woman", None, None),
        ("a woman", 0.5, None),
        ("a woman", 0.01, "no glasses"),
        ("a woman", 0.9, "reading glasses"),
    ],
)
def test_words_for_glasses(text: str, probability: float | None, word: str | None) -> None:
    row = {"text": text} if probability is None else {"text": text, "glasses_probability": probability}
    assert glasses_word(row) == word
    assert is_told(row) == ("glasses" in text)
