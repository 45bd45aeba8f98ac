"""What every model card says, in the Hugging Face hub's format: front matter, tables, intended use and limits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TAGS = ("deid-diffusion", "face-de-identification", "privacy")

USES = """\
## Intended use

A part of a pipeline that replaces faces in photos by different, realistic ones, so that photos can be shared or worked
on without showing the people's faces. Not for making pictures of real people, nor for deciding anything about a person.

## Limits

- De-identification of faces is not anonymisation of people: hair, clothes, body, place and company may still identify
  somebody. Whether a result is anonymous in law has to be judged for the whole data set.
- Faces made with one seed or key can be linked to each other; that is pseudonymisation (GDPR Art. 4(5)), not
  anonymisation.
- Faces that the training data lacks come out worse: look at the sources above, and at results of your own photos.
- Measured figures hold for the data and judges that they were measured with; another face recogniser may see more.
"""


def front_matter(license: str) -> str:
    """The card's head, which the hub reads; ``license`` is one of its identifiers, as "apache-2.0"."""
    lines = [f"license: {license}", "library_name: diffusers", "tags:", *(f"- {tag}" for tag in TAGS)]
    return "---\n" + "\n".join(lines) + "\n---"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; floats have four digits."""
    cells = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(one) for one in row)} |" for row in cells)


def figures(folder: Path) -> str:
    """The measured figures in a folder's ``figures.json``, as ``benchmarks/folder.py`` prints it."""
    path = folder / "figures.json"
    if not path.is_file():
        return "None yet."
    return table(("figure", "value"), [(f"`{name}`", value) for name, value in json.loads(path.read_text()).items()])


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
