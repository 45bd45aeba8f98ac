"""What the tool that made the results says of its work: the JSON lines of ``anonymize --report``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import UsageError, one_line
from ..report import ImageReport
from .figures import Figure, Section, mean_of


def read_reports(path: Path, names: Sequence[str]) -> dict[str, ImageReport]:
    """Reports by the name, without suffix, of the original that they are about; the last one of a name counts.

    Args:
        path: JSON lines; those of clips are passed over.
        names: of the originals, without suffix.

    Raises:
        UsageError: the file cannot be read, a line is no report, or none is about these photos.
    """
    reports: dict[str, ImageReport] = {}
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip() and '"tracks": ' not in line:  # no value can hold that: its quotes would be escaped
                    try:
                        report = ImageReport.from_json(line)
                    except ValueError as error:
                        raise UsageError(
                            f"{path}, line {number}: is no report of anonymize ({one_line(error)})"
                        ) from error
                    reports[Path(report.input).stem] = report
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({one_line(error)})") from error
    wanted = set(names)
    found = {name: report for name, report in reports.items() if name in wanted}
    if not found:
        raise UsageError(f"{path}: is about none of these photos: name the report of the run that made the results")
    return found


def keyed(reports: Mapping[str, ImageReport]) -> bool:
    """Whether faces were made with a key: pseudonymised, and linkable on purpose."""
    return any(face.pseudonym is not None for report in reports.values() for face in report.faces)


def record_section(reports: Mapping[str, ImageReport], people: Mapping[str, str]) -> Section:
    """What was done, and how fast, by the tool's own record.

    Args:
        reports: by name.
        people: whose photo each name is.
    """
    done = {name: report for name, report in reports.items() if report.status != "failed"}
    actions = Counter(face.action for report in done.values() for face in report.faces)
    with_faces = {name: report for name, report in done.items() if report.faces}
    per_face = [report.seconds / len(report.faces) for report in with_faces.values()]
    figures = [
        Figure("photos in the record", float(len(reports)), ""),
        Figure("failed", float(len(reports) - len(done)), "", better="lower"),
        *(Figure(f"faces {action}", float(count), "") for action, count in actions.most_common()),
        mean_of("time a photo", [one.seconds for one in done.values()], [people[name] for name in done], "s", "lower"),
        mean_of("time a face", per_face, [people[name] for name in with_faces], "s", "lower"),
    ]
    gates = {report.gate for report in done.values() if report.gate}
    summary = f"By the report of the run. Gate: {'; '.join(sorted(gates)) or 'none'}."
    return Section("Record and speed", summary, tuple(figures))
