"""Addition modulo p, with every pair once: a task on which small transformers grok.

    a b =  ->  (a + b) mod p

A fixed seed draws the pairs of the pool; all other pairs are the test part. A network
fits the pool long before it generalises to the test part. Weight decay changes how long
this takes.

Reference:
    Power, Burda, Edwards, Babuschkin, Misra, *Grokking*, arXiv:2201.02177 (2022).
"""

import numpy as np

from experiments.data.labelled import Labelled


SPLIT_SEED = 2024


def load(p: int = 97, train_share: float = 0.5) -> Labelled:
    """All p² pairs as int32[N, 3] of tokens a, b, p; the token p means "=".

    Args:
        p: the modulus, 2 or more; the classes are 0 ... p - 1, the tokens one more.
        train_share: fraction of the pairs in the pool (training and validation).
    """
    count = p * p
    pool = round(train_share * count)
    if p < 2 or not 0 < pool < count:
        raise ValueError(
            f"p={p}, train_share={train_share}: a part has no pairs. Pass p >= 2 and a "
            "fraction that leaves pairs for both parts."
        )
    a, b = np.divmod(np.arange(count, dtype=np.int32), np.int32(p))
    x = np.stack([a, b, np.full_like(a, p)], axis=1)
    y = (a + b) % p
    order = np.random.Generator(np.random.PCG64(SPLIT_SEED)).permutation(count)
    x, y = x[order], y[order]
    return Labelled(x[:pool], y[:pool], x[pool:], y[pool:])
