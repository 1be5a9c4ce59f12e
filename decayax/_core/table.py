"""Text tables: cells in aligned columns."""

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


def _justified(column: Sequence[str], right: bool) -> list[str]:
    width = max(map(len, column))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in column]
