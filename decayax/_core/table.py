"""Tables of text cells: aligned columns for a terminal, HTML for a notebook."""

import html
from collections.abc import Collection, Iterable, Sequence


def aligned(rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """One line of text for each row, with two spaces between columns.

    Args:
        rows: the cells; every row has the same number, and the header is a row.
        right: indices of the columns that are aligned to the right, such as numbers.
    """
    columns = [
        _justified(column, index in right)
        for index, column in enumerate(zip(*rows, strict=True))
    ]
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


def html_table(rows: Iterable[Sequence[str]]) -> str:
    """The rows as an HTML table; the first row is the header. Cells are escaped."""
    header, *body = rows
    lines = "".join(_html_row(row, "td") for row in body)
    head = _html_row(header, "th")
    return f"<table><thead>{head}</thead><tbody>{lines}</tbody></table>"


def _html_row(cells: Sequence[str], tag: str) -> str:
    inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"


def _justified(column: Sequence[str], right: bool) -> list[str]:
    width = max(map(len, column))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in column]
