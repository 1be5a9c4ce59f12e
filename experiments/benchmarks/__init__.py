"""Scripts that measure speed or tabulate other libraries; no study needs them.

`python -m experiments list` prints their names and what each is for.
"""
