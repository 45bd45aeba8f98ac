"""Options of a run: the one schema behind Python, the command line, the HTTP service and ComfyUI."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache, wraps
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_type_hints

from .attributes.vocabulary import VOCABULARY
from .errors import UsageError, validation_message

if TYPE_CHECKING:
    from pydantic import BaseModel

    from .attributes.selection import AttributeSelection
    from .identity.known_people import ConsentList
    from .identity.pseudonyms import Pseudonyms
else:  # both are passed through unvalidated: their modules import numpy, which `--help` has to do without
    ConsentList = Pseudonyms = Any

Method = Literal["generate", "fill", "blur", "pixelate"]
CoverColour = Literal["surroundings", "grey"]
Region = Literal["skin", "brows", "eyes", "nose", "mouth"]

_Class = TypeVar("_Class")


class Description(NamedTuple):
    """Description and bounds of an option, from which every interface explains it."""

    text: str
    ge: float | None = None
    le: float | None = None


def _validated(schema: type[_Class]) -> type[_Class]:
    """Make a dataclass's constructor validate and convert its values by pydantic, which is imported for that alone."""
    init = schema.__init__

    @wraps(init)
    def validated_init(self: _Class, **options: Any) -> None:
        from pydantic import ValidationError

        try:
            model = _validator()(**options)
        except ValidationError as error:
            raise UsageError(validation_message(error)) from None
        init(self, **{name: getattr(model, name) for name in _schema()})

    schema.__init__ = validated_init  # type: ignore[assignment,method-assign]
    return schema


@_validated
@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of face replacement. Each field carries its description, range and default.

    Raises:
        UsageError: a value is out of range, or two options contradict each other.
    """

    method: Annotated[
        Method,
        Description(
            "generate synthesises another face, fill covers it; blurred and pixelated faces can be recognised again."
        ),
    ] = "generate"
    num_candidates: Annotated[
        int,
        Description(ge=1, text="Candidates per face, at most; a face of which none passes verification is covered."),
    ] = 6
    num_inference_steps: Annotated[int | None, Description(ge=1, text="Denoising steps; by default the model's.")] = (
        None
    )
    seed: Annotated[
        int | None, Description(ge=0, text="Repeatable, and therefore linkable: omit it for fresh randomness.")
    ] = None
    pseudonyms: Annotated[
        Pseudonyms | None,
        Description("One pseudonym per person, in all photos and runs: faces are linkable on purpose."),
    ] = None
    keep_people: Annotated[
        ConsentList | None, Description("People who consented to be shown: their faces are left untouched.")
    ] = None
    keep: Annotated[
        tuple[str, ...] | None,
        Description(
            "Attributes that the new face shares with the original: built-in names "
            f"({', '.join(VOCABULARY)}), phrases of your own, or none."
        ),
    ] = None
    change: Annotated[
        Mapping[str, str],
        Description("Attributes to show instead of the original's, as age=70 or gender=woman."),
    ] = field(default_factory=dict)
    prompt: Annotated[str, Description("Steers the new faces, for models that were trained with prompts.")] = ""
    map_blend: Annotated[
        float,
        Description(
            ge=0,
            le=1,
            text="How far the proportions of faces move towards the mean face's, 0 to 1.",
        ),
    ] = 0.0
    keep_regions: Annotated[
        frozenset[Region], Description("Leave this part of every face untouched, at a cost in privacy.")
    ] = frozenset()
    min_face: Annotated[
        int,
        Description(ge=0, text="Leave faces untouched whose box has a shorter side under this number of pixels."),
    ] = 0
    fill_colour: Annotated[
        CoverColour,
        Description("Colour of covers: that of the surroundings, or grey, which is easy to see."),
    ] = "surroundings"
    batch_size: Annotated[int, Description(ge=1, text="Faces denoised at once.")] = 8

    def __post_init__(self) -> None:
        from .attributes.selection import make_selection

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


@cache
def _schema() -> dict[str, tuple[Any, Description]]:
    """Return name -> type and description of every option."""
    hints = get_type_hints(Options, include_extras=True)
    return {name: (hint.__origin__, hint.__metadata__[0]) for name, hint in hints.items()}


@cache
def _validator() -> type[BaseModel]:
    """Return the pydantic model that validates options."""
    from pydantic import ConfigDict, Field, create_model

    validated: dict[str, Any] = {}
    for name, (kind, description) in _schema().items():
        limits: dict[str, Any] = {"ge": description.ge, "le": description.le}
        if kind is float:
            limits["allow_inf_nan"] = False
        validated[name] = kind, Field(option_schema(name)["default"], **limits)
    return create_model("Options", __config__=ConfigDict(extra="forbid", coerce_numbers_to_str=True), **validated)


def option_type(name: str) -> Any:
    """Return the type of an option, for generated interfaces."""
    return _schema()[name][0]


def option_schema(name: str) -> dict[str, Any]:
    """Return default, description and bounds (`ge`, `le`) of an option, as `pydantic.Field` takes them."""
    description = _schema()[name][1]
    option = {option.name: option for option in fields(Options)}[name]
    default = option.default if option.default_factory is MISSING else option.default_factory()
    bounds = {limit: value for limit in ("ge", "le") if (value := getattr(description, limit)) is not None}
    return {"default": default, "description": description.text, **bounds}


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
