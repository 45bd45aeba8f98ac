"""What shapes a result, as plain values: runs that go on where another stopped have to wish for the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .options import Options


def plain_options(options: Options) -> dict[str, Any]:
    """Values for JSON that differ where results may differ. They hold no key and no embedding, only digests of them."""
    plain: dict[str, Any] = {one.name: getattr(options, one.name) for one in fields(options)}
    people, pseudonyms = plain.pop("keep_people"), plain.pop("pseudonyms")
    plain = {name: _plain(value) for name, value in plain.items()}
    if people is not None:
        plain["keep_people"] = [hashlib.sha256(people.embeddings.tobytes()).hexdigest(), people.threshold]
    if pseudonyms is not None:
        plain["pseudonyms"] = [pseudonyms.key.fingerprint, pseudonyms.store.name]
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return dict(value) if isinstance(value, Mapping) else value
