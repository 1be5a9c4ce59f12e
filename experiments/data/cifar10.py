"""CIFAR-10: 60000 small colour photographs, 32 x 32 x 3 in [0, 1], ten classes.

No package carries it: this reads a user's own copy, the folder cifar-10-batches-py out
of the official archive for Python. Five training batches are the pool, test_batch is
the test part.

Reference:
    Krizhevsky, *Learning multiple layers of features from tiny images* (2009).
"""

from pathlib import Path

import numpy as np

from experiments.data import formats, pixels, places
from experiments.data.labelled import Labelled


CLASSES = 10
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
SOURCE = places.Source(
    title="CIFAR-10",
    name="cifar-10-batches-py",
    files=tuple(MD5),
    cure="No package carries it: unpack the official cifar-10-python.tar.gz and",
)


def load(
    pool_size: int | None = None, test_size: int | None = None, *, check: bool = True
) -> Labelled:
    """The first rows of the official parts; float32[N, 32, 32, 3].

    With `check` the files must have the md5 of the official ones.
    """
    folder = places.find(SOURCE)
    *train, test = (_batch(folder / name, check) for name in MD5)
    images, labels = zip(*train, strict=True)
    pool = np.concatenate(images), np.concatenate(labels)
    return pixels.labelled(pool, test, pool_size, test_size)


def _batch(path: Path, check: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images with the colours last, uint8[N, 32, 32, 3], and labels.

    The file has three planes to an image, red, green, blue, each row after row.
    """
    data = formats.read(path)
    if check:
        formats.verify(data, path, "md5", MD5[path.name])
    batch = formats.unpickle(data, path)
    try:
        images, labels = batch[b"data"], np.asarray(batch[b"labels"], np.uint8)
        planes = images.view(np.uint8).reshape(len(labels), 3, 32, 32)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        raise places.Damaged(path, "no batch of 3072 bytes to each label") from None
    return planes.transpose(0, 2, 3, 1), labels
