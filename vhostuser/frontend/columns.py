"""Rows of words as plain text in columns."""

from __future__ import annotations

from collections.abc import Sequence, Set


def align(rows: Sequence[Sequence[str]], right: Set[int]) -> str:
    """Columns as wide as their widest cell, a line under the first row; `right` are those with numbers."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
