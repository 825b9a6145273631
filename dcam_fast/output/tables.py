"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]], align: str | None = None) -> str:
    """A Markdown table, without a line break at the end.

    Args:
        headers: the headings.
        rows: the cells of each row, as many as there are headings.
        align: `l` or `r` for each column; None aligns the first column to the left and all others to the right.

    Raises:
        ValueError: if a row or `align` does not have one item for each heading.

    Example:
        >>> print(markdown_table(["method", "F3"], [["default", "0.71"]]))
        | method | F3 |
        | --- | ---: |
        | default | 0.71 |
    """
    align = "l" + "r" * (len(headers) - 1) if align is None else align
    lines = [headers, [{"l": "---", "r": "---:"}[side] for side in align], *rows]
    for cells in lines:
        if len(cells) != len(headers):
            raise ValueError(f"markdown_table: rows must have {len(headers)} cells, got {len(cells)}: {list(cells)}")
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
