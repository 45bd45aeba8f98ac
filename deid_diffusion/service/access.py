"""Who may use a server: its secret, how it is compared, and where a server without one may listen."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DeidError, UsageError, one_line
from ..identity.keys import check_private

API_KEY_VARIABLE = "DEID_API_KEY"
"""Environment variable of the secret, where no file is named."""

LEAST_LETTERS = 16
_MOST_LETTERS = 512


@dataclass(frozen=True)
class ApiKey:
    """The secret that callers show; its repr does not show it. Made by `read_api_key`."""

    secret: str = field(repr=False)

    def is_same(self, shown: str) -> bool:
        """Whether a caller shows the secret, in a time that does not depend on how much of it is right."""
        return hmac.compare_digest(self.secret.encode(), shown.encode(errors="replace"))


def read_api_key(path: Path | None) -> ApiKey | None:
    """The secret in a file that only its owner can read, else in the environment; None where there is neither.

    It is never an argument: the arguments of a process are for all users of a machine to read.

    Args:
        path: a file of one line, 16 to 512 printable ASCII characters without spaces, such as ``deid-diffusion keys
            new`` or ``openssl rand -hex 32`` write.

    Raises:
        DeidError: the file cannot be read or is open to others, or the secret has another form.
    """
    if path is None:
        secret = os.environ.get(API_KEY_VARIABLE)
        return None if secret is None else _checked(secret, API_KEY_VARIABLE)
    try:
        with path.open("rb") as stream:
            check_private(path, os.fstat(stream.fileno()))
            text = stream.read(_MOST_LETTERS + 3).decode(errors="replace")
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise DeidError(f"{path}: the API key cannot be read ({reason}): check the name and its permissions") from error
    return _checked(text.removesuffix("\n").removesuffix("\r"), str(path))


def check_reach(host: str, api_key: ApiKey | None) -> None:
    """Refuse to listen where other machines can reach a server without a secret. Raises UsageError."""
    if api_key is None and not _is_loopback(host):
        raise UsageError(
            f"--host {one_line(host)}: other machines could use it, so it needs a secret: --api-key-file FILE, or "
            f"{API_KEY_VARIABLE} in the environment; or leave --host out"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _checked(secret: str, source: str) -> ApiKey:
    if not re.fullmatch(rf"[!-~]{{{LEAST_LETTERS},{_MOST_LETTERS}}}", secret):
        raise DeidError(
            f"{source}: is no API key: expected one line of {LEAST_LETTERS} to {_MOST_LETTERS} printable characters "
            "without spaces, as `openssl rand -hex 32` writes"
        )
    return ApiKey(secret)
