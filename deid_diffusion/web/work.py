"""One photo of the page through the desk that all visitors share."""

from __future__ import annotations

import logging
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING

from ..errors import DeidError, one_line
from ..options import Options
from ..service.desk import Check, Desk, out_of_time
from ..service.photo import answer
from .pictures import data_uri, overlay
from .sessions import Result

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer

logger = logging.getLogger(__name__)


def process(anonymizer: Anonymizer, desk: Desk, name: str, data: bytes, options: Options, file_format: str) -> Result:
    """Wait for the photo's turn, and de-identify it.

    Raises:
        DeidError: it is no photo, too large, or it took too long; or something inside failed, of which the log says
            more. One line.
    """
    limits = desk.limits

    def work(check: Check) -> Result:
        made = answer(
            anonymizer, data, name, options, file_format=file_format, max_pixels=limits.max_pixels, check=check
        )
        found = anonymizer.analyse(made.before)
        return Result(
            name=made.record.output or name,
            data=made.data,
            record=made.record.to_json(),
            before=data_uri(made.before),
            after=data_uri(made.after),
            overlay=overlay(made.before, found),
        )

    try:
        with desk.place():
            waiting = desk.submit(work)
            try:
                return waiting.result(limits.seconds)
            except FutureTimeout:
                waiting.cancel()
                raise out_of_time(limits) from None
    except DeidError:
        raise
    except Exception as error:  # its text may hold paths of this machine, so only the log gets it
        logger.error("internal error: %s: %s", type(error).__name__, one_line(error))
        raise DeidError(f"{name}: internal error: {type(error).__name__}: the log of the server says more") from error
