"""What is said of photographs beside their pixels: columns of text from tables and sidecars, looked up by name."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import DeidError, UsageError, one_line


class TextStore:
    """Texts by name, in a temporary file of their own: a million captions take no memory.

    The file goes away with the store.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        self._database.execute("CREATE TABLE texts (name BLOB PRIMARY KEY, text TEXT) WITHOUT ROWID")

    def put(self, name: str, text: str) -> None:
        """Keep `text`, in place of an earlier one of that name."""
        self._database.execute("INSERT OR REPLACE INTO texts VALUES (?, ?)", (_key(name), text))

    def get(self, name: str) -> str | None:
        """The text of that name, or None."""
        row = self._database.execute("SELECT text FROM texts WHERE name = ?", (_key(name),)).fetchone()
        return None if row is None else str(row[0])


def read_table(path: Path, key: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The value of the column `key` and the other columns of each row of a .jsonl file, or of a CSV with a header.

    Raises UsageError: it cannot be read, or a row has no such column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = (json.loads(line) for line in stream if line.strip())
            rows: Iterator[Any] = lines if path.suffix.lower() == ".jsonl" else iter(csv.DictReader(stream))
            for number, row in enumerate(rows, 1):
                columns = as_text(row)
                if key not in columns:
                    raise UsageError(
                        f"{path}: row {number} has no column {key!r} (it has {', '.join(columns) or 'none'})"
                    )
                yield columns.pop(key), columns
    except DeidError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # of damaged text and JSON: ValueError
        raise UsageError(f"{path}: cannot be read as a table ({one_line(error)})") from error


def as_text(row: Any) -> dict[str, str]:
    """The strings, numbers and truth values among a row's columns, as strings; none if it is no mapping."""
    if not isinstance(row, Mapping):
        return {}
    return {name: str(value) for name, value in row.items() if name and isinstance(value, (str, int, float, bool))}


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")  # file names need not be text
