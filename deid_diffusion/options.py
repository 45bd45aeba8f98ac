"""Options of a run: the one schema behind Python, the command line, the HTTP service and ComfyUI."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import field, fields
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

from annotated_types import Ge, Le
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from .attributes.vocabulary import VOCABULARY
from .errors import UsageError, validation_message

if TYPE_CHECKING:
    from .attributes.selection import AttributeSelection
    from .identity.known_people import ConsentList
    from .identity.pseudonyms import Pseudonyms
else:  # both are passed through unvalidated: their modules import numpy, which `--help` has to do without
    ConsentList = Pseudonyms = Any

Method = Literal["generate", "fill", "blur", "pixelate"]
CoverColour = Literal["surroundings", "grey"]
Region = Literal["skin", "brows", "eyes", "nose", "mouth"]

_Class = TypeVar("_Class")


def _raises_usage_error(schema: type[_Class]) -> type[_Class]:
    """Make the constructor of a pydantic dataclass raise UsageError, with one line, for invalid values."""
    init = schema.__init__

    @wraps(init)
    def checked_init(self: _Class, *values: Any, **options: Any) -> None:
        try:
            init(self, *values, **options)
        except ValidationError as error:
            raise UsageError(validation_message(error)) from None

    schema.__init__ = checked_init  # type: ignore[assignment,method-assign]
    return schema


@_raises_usage_error
@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", coerce_numbers_to_str=True))
class Options:
    """Options of face replacement. Each field carries its description, range and default.

    Raises:
        UsageError: a value is out of range, or two options contradict each other.
    """

    method: Annotated[
        Method,
        Field(
            description="generate synthesises another face, fill covers it; blurred and pixelated faces can be "
            "recognised again."
        ),
    ] = "generate"
    num_candidates: Annotated[
        int,
        Field(ge=1, description="Candidates per face, at most; a face of which none passes verification is covered."),
    ] = 6
    num_inference_steps: Annotated[int | None, Field(ge=1, description="Denoising steps; by default the model's.")] = (
        None
    )
    seed: Annotated[
        int | None, Field(ge=0, description="Repeatable, and therefore linkable: omit it for fresh randomness.")
    ] = None
    pseudonyms: Annotated[
        Pseudonyms | None,
        Field(description="One pseudonym per person, in all photos and runs: faces are linkable on purpose."),
    ] = None
    keep_people: Annotated[
        ConsentList | None, Field(description="People who consented to be shown: their faces are left untouched.")
    ] = None
    keep: Annotated[
        tuple[str, ...] | None,
        Field(
            description="Attributes that the new face shares with the original: built-in names "
            f"({', '.join(VOCABULARY)}), phrases of your own, or none."
        ),
    ] = None
    change: Annotated[
        Mapping[str, str],
        Field(description="Attributes to show instead of the original's, as age=70 or gender=woman."),
    ] = field(default_factory=dict)
    prompt: Annotated[str, Field(description="Steers the new faces, for models that were trained with prompts.")] = ""
    map_blend: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            allow_inf_nan=False,
            description="How far the proportions of faces move towards the mean face's, 0 to 1.",
        ),
    ] = 0.0
    keep_regions: Annotated[
        frozenset[Region], Field(description="Leave this part of every face untouched, at a cost in privacy.")
    ] = frozenset()
    min_face: Annotated[
        int,
        Field(ge=0, description="Leave faces untouched whose box has a shorter side under this number of pixels."),
    ] = 0
    fill_colour: Annotated[
        CoverColour,
        Field(description="Colour of covers: that of the surroundings, or grey, which is easy to see."),
    ] = "surroundings"
    batch_size: Annotated[int, Field(ge=1, description="Faces denoised at once.")] = 8

    def __post_init__(self) -> None:
        from .attributes.selection import make_selection  # imports torch

        if self.keep_regions == set(get_args(Region)):
            raise UsageError("keep_regions: all regions together are the whole face: leave one out")
        steered = self.selection != make_selection() or self.prompt or self.map_blend
        if steered and self.method != "generate":
            raise UsageError(
                f"method {self.method}: keeps and changes no attribute: leave out keep, change, prompt and map_blend"
            )
        if self.seed is not None and self.pseudonyms is not None:
            raise UsageError("seed, pseudonyms: both determine the new face of a person: give one of them")

    @property
    def selection(self) -> AttributeSelection:
        """Checked selection of kept and changed attributes."""
        from .attributes.selection import make_selection

        return make_selection(self.keep, self.change)


_SCHEMA: Mapping[str, Any] = Options.__pydantic_fields__  # type: ignore[attr-defined]


def option_type(name: str) -> Any:
    """Return the type of an option, for generated interfaces."""
    return _SCHEMA[name].annotation


def option_schema(name: str) -> dict[str, Any]:
    """Return default, description and bounds (`ge`, `le`) of an option, as `pydantic.Field` takes them."""
    schema = _SCHEMA[name]
    bounds: dict[str, Any] = {}
    for limit in schema.metadata:
        if isinstance(limit, Ge):
            bounds["ge"] = limit.ge
        elif isinstance(limit, Le):
            bounds["le"] = limit.le
    return {"default": schema.default, "description": schema.description, **bounds}


def options_digest(options: Options) -> dict[str, Any]:
    """Return JSON values that differ where results may differ; keys and embeddings appear as digests only."""
    values: dict[str, Any] = {option.name: getattr(options, option.name) for option in fields(options)}
    people, pseudonyms = values.pop("keep_people"), values.pop("pseudonyms")
    digest = {name: _json_value(value) for name, value in values.items()}
    if people is not None:
        digest["keep_people"] = [hashlib.sha256(people.embeddings.tobytes()).hexdigest(), people.threshold]
    if pseudonyms is not None:
        digest["pseudonyms"] = [pseudonyms.key.fingerprint, pseudonyms.store.name]
    return digest


def _json_value(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return dict(value) if isinstance(value, Mapping) else value
