"""The commands: load the objects, run the function of the library, print, judge."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from decayax._audit import audit, Finding
from decayax._cli.arguments import MEASUREMENT, parser
from decayax._cli.load import CommandError, load, load_optimizer, load_params
from decayax._cli.plain import audit_data, description_data
from decayax._cli.traces import is_from_the_library, users_traceback
from decayax.masks import describe


PASSED, FAILED, WRONG_USE = 0, 1, 2


def main(argv: Sequence[str]) -> int:
    """Run the command; the result is the exit status."""
    options = parser().parse_args(argv)
    run = {"audit": _audit, "describe": _describe}[options.command]
    try:
        return run(options)
    except CommandError as error:
        trace = error.traceback
        print(f"{trace}python -m decayax {options.command}: {error}", file=sys.stderr)
        return WRONG_USE


def _audit(options: argparse.Namespace) -> int:
    given = vars(options)
    names = [name for name, *_ in MEASUREMENT] + ["sample"]
    arguments = {name: given[name] for name in names if name in given}
    optimizer = load_optimizer(options.optimizer, arguments.get("learning_rate"))
    params = load_params(options.params)
    result = _call("dx.audit", audit, optimizer, params, **arguments)
    if callable(optimizer) and "learning_rate" not in arguments:
        print(
            f"python -m decayax audit: {options.optimizer} is a function of the "
            "learning rate. It was called with 0.001 and 0.0005. Pass --learning-rate "
            "for another one.",
            file=sys.stderr,
        )
    failures = result.failures(
        options.allow, steps=options.check_steps, min_half_life=options.min_half_life
    )
    print(_json(audit_data(result, failures)) if options.json else result)
    if failures:
        print(_verdict(failures), file=sys.stderr)
    return FAILED if failures else PASSED


def _describe(options: argparse.Namespace) -> int:
    mask = load("MASK", options.mask)
    params = load_params(options.params)
    result = _call("dx.masks.describe", describe, mask, params)
    print(_json(description_data(result)) if options.json else result)
    return PASSED


def _call(name: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Errors of the library are one line; those of other code have a traceback."""
    try:
        return function(*args, **kwargs)
    except CommandError:
        raise
    except Exception as error:
        if is_from_the_library(error):
            raise CommandError(str(error)) from None
        trace = users_traceback(error)
        raise CommandError(f"{name} got this error.", trace) from None


def _verdict(failures: Sequence[Finding]) -> str:
    # dict.fromkeys removes duplicates and keeps the order.
    kinds = dict.fromkeys(f"--allow '{finding.kind}'" for finding in failures)
    problems = "\n".join(map(str, failures))
    return (
        f"python -m decayax audit: the decay has serious problems.\n{problems}\n"
        f"If this is intended, add {' '.join(kinds)}."
    )


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2, allow_nan=False)
