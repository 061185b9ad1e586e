"""Markdown for cards and result pages."""

from collections.abc import Iterable, Sequence


def markdown_table(rows: Iterable[Sequence[object]]) -> str:
    """Render a Markdown table.

    Args:
        rows (iterable of sequences): Cells, shown as `str`; the first row is the heading.

    Returns:
        `str`: The table, without a line break at the end.
    """
    heading, *others = rows
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in (heading, *others)]
    return "\n".join([lines[0], "| --- " * len(heading) + "|", *lines[1:]])
