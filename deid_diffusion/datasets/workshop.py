"""What a worker holds: the model and the wishes, and how one picture of any data set is made with them."""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import images, report
from ..deidentify import deidentify, edited
from ..errors import DeidError, ImageError, one_line
from ..options import Options
from ..outcomes import Outcome, internal, since
from ..report import ImageReport

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer


@dataclass(frozen=True)
class Recipe:
    """Everything that a worker needs to begin; goes to other processes and machines.

    Attributes:
        load: gives the anonymizer of a model's name and a device.
        model: its name.
        options: for each picture.
        file_format: of the results: a key of `planning.FORMATS`, or `kinds.KEEP`.
        require_face: a picture with no face is left out.
        copied: suffixes of files and members, and columns, that hold no picture, as the user said.
        image_columns: columns of tables that hold pictures, beside those that say so themselves.
        device: "auto" gives each worker a GPU in turn where there are any; else a torch device such as "cpu".
    """

    load: Callable[[str, str], Anonymizer]
    model: str = "builtin"
    options: Options = field(default_factory=Options)
    file_format: str = "png"
    require_face: bool = False
    copied: frozenset[str] = frozenset()
    image_columns: tuple[str, ...] = ()
    device: str = "auto"


class Workshop:
    """A recipe with the model that it names, loaded when the first picture has been read."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._versions: Mapping[str, str] = report.versions()

    def load(self) -> None:
        """Load the model now. Raises DeidError where it cannot be loaded, or cannot do what is asked for."""
        self._model  # noqa: B018

    @cached_property
    def _model(self) -> Anonymizer:
        model = self.recipe.load(self.recipe.model, self.recipe.device)
        if self.recipe.options.method == "synth":
            model.check(self.recipe.options)
        return model

    def make(self, read: Callable[[], bytes], name: str, output: str, shown: str) -> tuple[bytes | None, Outcome]:
        """A picture's bytes become the result's.

        Args:
            read: gives the picture's bytes.
            name: of the picture, for people and reports.
            output: name of the result; its suffix says the format.
            shown: the result's name for people and reports.

        Returns:
            The result, or None where nothing may be written; and what became of the picture.

        Raises:
            DeidError: something that would befall every other picture, too.
        """
        start = time.perf_counter()
        failed = ImageReport(name, None, "failed", versions=self._versions)
        try:
            data = read()
            failed = replace(failed, input_sha256=hashlib.sha256(data).hexdigest())
            photo = images.decode(data, name)
            height, width = photo.pixels.shape[:2]
            failed = replace(failed, width=width, height=height)
            images.check_target(Path(output), (height, width), photo.alpha)
            model, recipe = self._model, self.recipe
            failed = replace(failed, model=model.model_name, gate=model.gate.description)
            result = deidentify(model, photo, name, recipe.options, require_face=recipe.require_face)
            made = images.encode(
                output,
                np.asarray(result.image),
                alpha=photo.alpha,
                icc_profile=photo.icc_profile,
                ai_edited=edited(result),
            )
        except ImageError as error:
            text = one_line(error)
            return None, Outcome(replace(failed, error=text, seconds=since(start)), text)
        except DeidError:
            raise
        except Exception as error:
            text = "".join(traceback.format_exception(error))  # the exception itself may not travel
            outcome = internal(replace(failed, seconds=since(start)), name, error)
            return None, replace(outcome, unexpected=RuntimeError(text))
        done = replace(
            failed,
            status="done" if result.faces else "no_face",
            output=shown,
            output_sha256=hashlib.sha256(made).hexdigest(),
            faces=result.faces,
            seconds=since(start),
        )
        return made, Outcome(done)
