"""What a request may ask for: the query parameters of the service, and the options that they make."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..attributes.choice import parse_change, parse_keep
from ..errors import UsageError
from ..faces.methods import Method
from ..identity.pseudonyms import Pseudonyms
from ..options import Options

_Words = Annotated[str, Field(max_length=200)]


class Wish(BaseModel):
    """The query parameters; their meaning is that of the command line's options of the same names.

    What would leave an original face in a result (small faces, regions, consenting people) cannot be asked for.
    """

    model_config = ConfigDict(extra="forbid")

    method: Method = Field("synth", description="synth generates other faces; blur and pixelate can be undone.")
    keep: list[_Words] = Field(
        [], max_length=20, description="What the new face has of the old one: names with commas between them; none."
    )
    change: list[_Words] = Field([], max_length=20, description="NAME=WORD, as age=70 or gender=woman.")
    seed: int | None = Field(None, ge=0, lt=2**63, description="Repeatable, and therefore linkable.")
    attempts: int = Field(6, ge=1, le=10, description="Candidates a face at most.")
    steps: int | None = Field(None, ge=1, le=100, description="Denoising steps; the model's own number if left out.")
    map_privacy: float = Field(0, ge=0, le=1, description="How far proportions go towards the mean face's.")
    format: Literal["png", "webp", "jpeg"] = Field("png", description="Of the result; JPEG changes all pixels.")
    require_face: bool = Field(False, description="A photo in which no face is found is an error.")

    def options(self, people: Pseudonyms | None) -> Options:
        """The options, with the server's people where a face gets a pseudonym. Raises UsageError."""
        if people is not None and self.seed is not None:
            raise UsageError("seed: this server gives each person one face by its key: leave the seed out")
        return Options(
            method=self.method,
            steps=self.steps,
            seed=self.seed,
            attempts=self.attempts,
            keep=parse_keep(self.keep),
            change=parse_change(self.change),
            map_privacy=self.map_privacy,
            pseudonyms=people if self.method == "synth" else None,
        )
