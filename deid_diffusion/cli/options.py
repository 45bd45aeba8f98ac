"""Parameters shared by several commands, those of the `Options` schema among them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand

from ..options import Options, Region, option_schema, option_type

Model = Annotated[
    str,
    typer.Option(
        metavar="NAME|PATH|HUB-ID",
        help="builtin, the built-in model; sd15, sd15-lcm or sd15-semantic=SOURCE; a folder; or a hub id. See "
        "docs/models.md.",
    ),
]

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]

KeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="KEY",
        help="One pseudonym per person, in all photos and runs with this key and its store (pseudonymisation: still "
        "personal data). See `deid-diffusion keys --help`.",
    ),
]

Store = Annotated[Path | None, typer.Option(metavar="FILE", help="Store of pseudonyms.", show_default="beside the key")]

KeepPeople = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Photos of people whose faces are left untouched.")
]

#: Option of the schema -> arguments of its flag beyond description and range.
_APPEARANCE: Mapping[str, Mapping[str, Any]] = {
    "num_inference_steps": {"show_default": "the model's"},
    "keep": {"metavar": "NAMES", "show_default": "all built-in names"},
    "change": {"metavar": "NAME=WORD"},
    "prompt": {"metavar": "TEXT"},
    "min_face": {"metavar": "PX"},
}
_Region = Enum("_Region", {name: name for name in get_args(Region)})  # type: ignore[misc]  # no list[Literal] in typer
#: Option of the schema -> name and type of its parameter, where the command line has another.
_REPEATED: Mapping[str, tuple[str, Any]] = {
    "keep": ("keep", list[str]),
    "change": ("change", list[str]),
    "keep_regions": ("keep_region", list[_Region]),
}
#: Option of the schema -> parameters that name files to make it from.
_FILES: Mapping[str, Mapping[str, Any]] = {
    "pseudonyms": {"key_file": KeyFile, "store": Store},
    "keep_people": {"keep_people": KeepPeople},
}


def _parameters(name: str) -> Iterator[inspect.Parameter]:
    """Yield the parameters of a command that set one option of the schema."""
    if name in _FILES:
        for flag, annotation in _FILES[name].items():
            yield inspect.Parameter(flag, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        return
    schema = option_schema(name)
    flag, kind = _REPEATED.get(name, (name, option_type(name)))
    repeated = name in _REPEATED
    appearance = typer.Option(
        help=f"{schema['description'].removesuffix('.')}{'; may be repeated' if repeated else ''}.",
        min=schema.get("ge"),
        max=schema.get("le"),
        **_APPEARANCE.get(name, {}),
    )
    yield inspect.Parameter(
        flag,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if repeated else schema["default"],
        annotation=Annotated[kind | None if repeated else kind, appearance],
    )


_ALL = tuple(option.name for option in fields(Options))


def with_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the parameters of options of the schema, all by default, in place of its parameter `given`.

    The command gets them as `given`, a mapping from parameter to value, for `parse_options`.
    """
    generated = [parameter for name in names or _ALL for parameter in _parameters(name)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**values: Any) -> None:
            command(given={parameter.name: values.pop(parameter.name) for parameter in generated}, **values)

        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [new for old in own for new in (generated if old.name == "given" else [old])]
        keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        run.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
        return run

    return decorate


def parse_options(given: Mapping[str, Any]) -> Options:
    """Return the options that a command was given, without people and pseudonyms. Raises UsageError."""
    from ..attributes.selection import parse_change, parse_keep

    files = {flag for flags in _FILES.values() for flag in flags}
    values = {name: value for name, value in given.items() if name not in files}
    if "keep_region" in values:
        values["keep_regions"] = [region.value for region in values.pop("keep_region") or ()]
    return Options(
        **{**values, "keep": parse_keep(values["keep"] or []), "change": parse_change(values["change"] or [])}
    )


_RENAMED = {
    "--steps": "--num-inference-steps",
    "--attempts": "--num-candidates",
    "--map-privacy": "--map-blend",
    "--export-boxes": "--export-annotations",
}
_REPLACED = dict.fromkeys(("--boxes", "--only", "--wishes"), "--annotations")


class DeprecatedFlags(TyperCommand):
    """Command that accepts flags of earlier releases, with one warning line on standard error."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rename deprecated flags, up to `--`, before they are parsed."""
        known = {flag for parameter in self.get_params(ctx) for flag in parameter.opts}
        renamed = {old: new for old, new in _RENAMED.items() if new in known}
        advice = {old: new for old, new in (_REPLACED | renamed).items() if old in known | renamed.keys()}
        end = args.index("--") if "--" in args else len(args)
        names: dict[str, str] = {}
        flags: list[str] = []
        for text in args[:end]:
            flag, sign, value = text.partition("=")
            if flag in advice:
                names[flag] = advice[flag]
                flag = renamed.get(flag, flag)
            elif text == "--method=synth" or (text == "synth" and flags and flags[-1] == "--method"):
                names["--method synth"] = "--method generate"
                flag, value = (flag, "generate") if sign else ("generate", "")
            flags.append(f"{flag}{sign}{value}")
        if names and not ctx.resilient_parsing:
            replacements = ", ".join(f"{old} (use {new})" for old, new in names.items())
            typer.echo(f"warning: deprecated, to be removed in the next release: {replacements}", err=True)
        return super().parse_args(ctx, [*flags, *args[end:]])
