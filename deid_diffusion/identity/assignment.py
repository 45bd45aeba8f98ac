"""Identities that replace faces: the seeds of their candidates and, once chosen, their donors."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..models.identity_model import Donors

if TYPE_CHECKING:
    from .pseudonyms import Person, Pseudonyms

SEED_STEP = 0x1E3779B97F4A7C15
"""Distance between the seeds of consecutive candidates: far from those of other faces and of a user's next tries."""


class Identity(Protocol):
    """Who replaces a face.

    Attributes:
        donors: the synthetic people it is mixed from, where they were chosen before; else None.
        pseudonym: its name under a key; None without one.
    """

    @property
    def donors(self) -> Donors | None: ...

    @property
    def pseudonym(self) -> str | None: ...

    def seed(self, attempt: int) -> int:
        """Return the seed of a candidate, 0 to 2**63 - 1; always the same for the same attempt."""
        ...

    def settle(self, donors: Donors) -> Donors:
        """Choose donors for good. Returns those of another image of the same person that was faster."""
        ...


@dataclass
class RandomIdentity:
    """Identity that nothing links: seeds derive from a first seed or, without it, are random.

    Attributes:
        first_seed: of the first candidate; None draws a fresh seed for each.
    """

    first_seed: int | None = None
    donors: Donors | None = None
    pseudonym: str | None = None
    _drawn: dict[int, int] = field(default_factory=dict)

    def seed(self, attempt: int) -> int:
        if self.first_seed is not None:
            return (self.first_seed + attempt * SEED_STEP) % 2**63
        if attempt not in self._drawn:
            self._drawn[attempt] = secrets.randbits(63)
        return self._drawn[attempt]

    def settle(self, donors: Donors) -> Donors:
        return donors


@dataclass(frozen=True)
class PseudonymIdentity:
    """The identity that a key gives a person: the same in all images, kept in a store.

    Attributes:
        person: of the store.
        store: which remembers the donors.
    """

    person: Person
    store: Pseudonyms

    @property
    def donors(self) -> Donors | None:
        return Donors.from_bytes(self.person.donors) if self.person.donors else None

    @property
    def pseudonym(self) -> str:
        return self.person.id

    def seed(self, attempt: int) -> int:
        return self.person.seed(attempt)

    def settle(self, donors: Donors) -> Donors:
        kept = self.store.remember(self.person, donors.to_bytes())
        return Donors.from_bytes(kept) if kept else donors
