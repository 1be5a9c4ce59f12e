"""Check every row: python tests/symmetric [part of a name]."""

import pathlib
import sys
import time


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    from symmetric import ROWS
    from symmetric.checking import faults_of
    from symmetric.modules import MODULES
    from symmetric.random_networks import random_network

    table = [*ROWS, *MODULES, *(random_network(seed) for seed in range(20))]

    start = time.monotonic()
    chosen = [
        row
        for row in table
        if any(part in f"{row.framework} {row.name}" for part in sys.argv[1:])
    ]
    for row in chosen or table:
        for fault in faults_of(row):
            print(f"{row.framework} {row.name}: {fault}", flush=True)
    print(f"{len(chosen or table)} rows, {time.monotonic() - start:.0f} s")
