"""Markdown of cards and result pages."""

from collections.abc import Iterable, Sequence


def markdown_table(rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table.

    Args:
        rows (iterable of sequences): Cells, whose `str` is shown; the first row is the heading.

    Returns:
        `str`: Lines, without a line break at the end.
    """
    heading, *others = rows
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in (heading, *others)]
    return "\n".join([lines[0], "| --- " * len(heading) + "|", *lines[1:]])
