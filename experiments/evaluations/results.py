"""What a finished run is told by, whatever was measured."""

from typing import Any

Results = dict[str, Any]


def align(rows: list[list[str]]) -> str:
    """Rows of cells as text, in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(x.rjust(w) for x, w in zip(row, widths, strict=True)) for row in rows)
