"""Tables of text cells: aligned columns for a terminal, HTML for a notebook."""

import html
from collections.abc import Collection, Iterable, Sequence


def aligned(rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """One line of text for each row; the columns ``right`` are aligned to the right."""
    columns = []
    for index, column in enumerate(zip(*rows, strict=True)):
        justify = str.rjust if index in right else str.ljust
        width = max(map(len, column))
        columns.append([justify(cell, width) for cell in column])
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
