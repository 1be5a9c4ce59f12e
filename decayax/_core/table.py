"""Rows of words as lines of text whose columns stand one below the other."""

from collections.abc import Collection, Iterable, Sequence


def aligned(rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """One line per row; two spaces between columns, no blanks at the ends of lines.

    Args:
        rows: the cells, the same number in each row; a header is a row like any other.
        right: indices of the columns that end at their right edge, as numbers do.
    """
    columns = [
        _justified(column, index in right)
        for index, column in enumerate(zip(*rows, strict=True))
    ]
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


def _justified(column: Sequence[str], right: bool) -> list[str]:
    width = max(map(len, column))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in column]
