"""Which data sets are here, and what to do about the others."""

from experiments.data import cifar10, corpus, fashion_mnist, mnist, mnist1d, places


def status() -> dict[str, str | None]:
    """None for a set that is here, else the line that says how to come by it.

    Only looks for files and packages: nothing is read. Sets that every installation of
    the experiments has (digits, teacher, modular) are left out.
    """
    sources = (fashion_mnist.SOURCE, mnist.SOURCE, cifar10.SOURCE, corpus.SHAKESPEARE)
    told: dict[str, str | None] = {}
    for source in sources:
        try:
            places.find(source)
            told[source.title] = None
        except places.DataError as error:
            told[source.title] = str(error)
    try:
        mnist1d.require()
        told["MNIST-1D"] = None
    except places.DataError as error:
        told["MNIST-1D"] = str(error)
    return told
