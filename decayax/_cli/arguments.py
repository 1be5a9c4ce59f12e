"""The command line: each option is an argument of `audit` or of `Audit.check`."""

import argparse
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from decayax._audit import audit
from decayax._audit.findings import KINDS


AUDIT = """\
Measures what decay an optimizer really applies to each parameter, and prints a table.

OPTIMIZER and PARAMS are written package.module:name or path/to/file.py:name. Modules of
the current folder can be imported."""
DESCRIBE = """\
Prints what a mask decides for each parameter.

MASK and PARAMS are written package.module:name or path/to/file.py:name. Modules of the
current folder can be imported."""
EXIT = """\
exit status:
  0  the check passed
  1  the check found a serious problem
  2  the command line, an import or the audit itself failed
stdout has the table or the JSON; stderr has the errors."""
DESCRIBE_EXIT = "exit status: 0, or 2 if the command line or an import failed."
PARAMS = (
    "the parameters, their jax.ShapeDtypeStructs, or a function without arguments that "
    "returns one of these"
)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="python -m decayax",
        description="What decays in an Optax optimizer, and how strongly.",
        epilog="python -m decayax audit --help shows the options of audit.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_audit(commands)
    _add_describe(commands)
    return top


def _add_audit(commands: Any) -> None:
    command = commands.add_parser(
        "audit",
        help="measure the decay that an optimizer really applies; check it",
        description=AUDIT,
        epilog=EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "optimizer",
        metavar="OPTIMIZER",
        help="an Optax optimizer, a function without arguments that returns one, or a "
        "function learning_rate -> optimizer",
    )
    _add_common(command)
    measure = command.add_argument_group("measurement, as in dx.audit")
    for name, kind, text in MEASUREMENT:
        _add_option(measure, name, kind, text)
    measure.add_argument(
        "--sample",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="measure a few weights of each parameter only; --no-sample: measure all "
        "(default: a sample if the optimizer allows it)",
    )
    _add_check(command.add_argument_group("check, as in Audit.check"))


def _add_check(check: Any) -> None:
    check.add_argument(
        "--check-steps",
        type=positive,
        metavar="N",
        help="the number of steps of the run: a half-life shorter than 1 %% of it is a "
        "serious finding (without it: shorter than 69 steps)",
    )
    check.add_argument(
        "--min-half-life",
        type=positive,
        metavar="N",
        help="the shortest half-life that is allowed, in steps",
    )
    check.add_argument(
        "--allow",
        action="append",
        default=[],
        choices=sorted(KINDS),
        metavar="KIND",
        help="a kind of finding that is intended, such as gradient-dependent for an L2 "
        "term; may be given more than once",
    )


def _add_describe(commands: Any) -> None:
    command = commands.add_parser(
        "describe",
        help="show what a mask decides for each parameter",
        description=DESCRIBE,
        epilog=DESCRIBE_EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "mask",
        metavar="MASK",
        help="a mask, a tree of multipliers, or a function params -> tree, such as "
        "decayax.masks:no_bias_or_norm",
    )
    _add_common(command)


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--params", required=True, metavar="PARAMS", help=PARAMS)
    command.add_argument(
        "--json", action="store_true", help="print JSON instead of a table"
    )


def _add_option(group: Any, name: str, kind: Callable[[str], Any], text: str) -> None:
    """One argument of `audit`; what the user does not give is not passed on."""
    default = inspect.signature(audit).parameters[name].default
    if isinstance(default, Sequence):
        shown, several = " ".join(f"{value:g}" for value in default), {"nargs": "+"}
    else:
        shown, several = f"{default}", {"nargs": "+"} if name == "at_steps" else {}
    group.add_argument(
        f"--{name.replace('_', '-')}",
        type=kind,
        default=argparse.SUPPRESS,
        metavar="N" if kind in (count, step) else "X",
        help=text if default is None else f"{text} (default: {shown})",
        **several,
    )


def positive(text: str) -> float:
    """A number > 0."""
    value = _finite(text)
    if value is None or value <= 0:
        raise argparse.ArgumentTypeError(f"must be a number > 0, got {text}")
    return value


def not_negative(text: str) -> float:
    """A number >= 0."""
    value = _finite(text)
    if value is None or value < 0:
        raise argparse.ArgumentTypeError(f"must be a number >= 0, got {text}")
    return value


def count(text: str) -> int:
    """An integer >= 1; underscores may group its digits."""
    value = _integer(text)
    if value is None or value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text}")
    return value


def step(text: str) -> int:
    """A number of a step, which is an int32."""
    value = _integer(text)
    if value is None or not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(
            f"must be an integer from 0 to 2**31 - 1, got {text}"
        )
    return value


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


# Arguments of `audit` that are numbers: name, type, help.
MEASUREMENT = [
    (
        "learning_rate",
        positive,
        "for a function learning_rate -> optimizer: it is called with this and with "
        "half of it",
    ),
    ("steps", count, "the number of steps that are measured"),
    (
        "horizon",
        count,
        "the number of steps of the run: also measure at later steps, and show the "
        "fraction of the initial weights that the run keeps",
    ),
    ("at_steps", step, "also measure at these steps, such as 0 1000 10000"),
    ("gradient_scales", positive, "standard deviations of the gradients"),
    ("seeds", count, "the number of gradient sequences"),
    (
        "weight_decay",
        not_negative,
        "the strength that the optimizer was given, if the audit cannot find it",
    ),
]
