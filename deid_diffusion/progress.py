"""A caller watches the denoising steps, and may end a call from there although stations survive exceptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from .pipelines.face_deid import FaceDeidPipeline

OnStep = Callable[[int, int], None]
"""Called after each denoising step with the steps done and the steps of this run; what it raises ends the call."""


class _Ended(BaseException):
    """Carries what a watcher raised past ``except Exception``, which would only cover a face and go on."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Watched:
    """A pipeline whose calls tell a watcher of each step; all else is the pipeline's own."""

    def __init__(self, pipeline: FaceDeidPipeline, on_step: OnStep) -> None:
        self._pipeline, self._on_step = pipeline, on_step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def __call__(self, **inputs: Any) -> Any:
        return self._pipeline(**inputs, callback_on_step_end=self._tell)

    def _tell(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        try:
            self._on_step(step + 1, pipeline.num_timesteps)
        except Exception as error:
            raise _Ended(error) from error
        return tensors


@contextmanager
def watched(pipeline: FaceDeidPipeline, on_step: OnStep | None) -> Iterator[FaceDeidPipeline]:
    """The pipeline, watched; what the watcher raises leaves the ``with`` block as it was raised. None: unwatched.

    A pipeline object is shared by threads, so the watcher is not put on it.
    """
    if on_step is None:
        yield pipeline
        return
    try:
        yield cast("FaceDeidPipeline", _Watched(pipeline, on_step))
    except _Ended as ended:
        raise ended.error from None
