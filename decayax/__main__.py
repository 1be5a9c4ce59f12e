"""``python -m decayax``: the audit and the table of a mask, from a shell."""

import sys

from decayax._cli.command import main


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
