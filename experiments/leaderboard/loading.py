"""Read the entries: modules with a docstring, `chain` and `STRENGTH`."""

import importlib
import inspect
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.engine.config import TrainingSetup
from experiments.errors import fault_of, UserError
from experiments.leaderboard.run import Chain, make_optimizer


FOLDER = Path(__file__).parent / "entries"
PACKAGE = "experiments.leaderboard.entries"
RULES = "experiments/leaderboard/RULES.md"
MAX_LINES = 30
LARGEST = 30  # of an exponent of two


class BoardEntry(NamedTuple):
    """A method that competes on the board."""

    name: str
    chain: Chain
    # By board: the exponent of two in the middle of the grid. None: no strength.
    strength: Mapping[str, int] | None


def stored_entries(boards: Collection[str]) -> tuple[BoardEntry, ...]:
    """Load all entries of the package, sorted by name."""
    names = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
    modules = [importlib.import_module(f"{PACKAGE}.{name}") for name in names]
    return tuple(entry_of(module, boards) for module in modules)


def entry_of(module: ModuleType, boards: Collection[str]) -> BoardEntry:
    """Make the entry of a module.

    Args:
        module: the module of the entry's file.
        boards: the names of the boards; an entry competes on all of them.

    Raises:
        UserError: the file breaks a rule.
    """
    name = module.__name__.rpartition(".")[2]
    faults = _faults(module, boards)
    if faults:
        raise UserError(f"{name}.py is not an entry: {'; '.join(faults)}. See {RULES}.")
    return BoardEntry(name, module.chain, module.STRENGTH)


def _faults(module: ModuleType, boards: Collection[str]) -> list[str]:
    """Return the rules that a file breaks."""
    found = []
    lines = len(Path(str(module.__file__)).read_text("utf-8").splitlines())
    if lines > MAX_LINES:
        found.append(f"it has {lines} lines, at most {MAX_LINES} are allowed")
    sentence, _, reference = (inspect.getdoc(module) or "").partition("\n\n")
    if not re.match(r"\S", sentence):
        found.append("it has no docstring with a sentence about the method")
    elif not reference.strip():
        found.append("its docstring has no second paragraph with a reference")
    chain = getattr(module, "chain", None)
    if not inspect.isfunction(chain):
        found.append("it has no function chain(run)")
    elif list(inspect.signature(chain).parameters) != ["run"]:
        found.append("the only argument of chain must be run")
    return found + _faults_of_strength(module, boards)


def _faults_of_strength(module: ModuleType, boards: Collection[str]) -> list[str]:
    if not hasattr(module, "STRENGTH"):
        return ["it has no STRENGTH. Write STRENGTH = None for a method without one"]
    strength: Any = module.STRENGTH
    if strength is None:
        return []
    if not isinstance(strength, dict) or set(strength) != set(boards):
        return [f"STRENGTH must be None or a dict with the keys {', '.join(boards)}"]
    wrong = [
        value
        for value in strength.values()
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST
    ]
    if wrong:
        return [
            f"STRENGTH has the value {wrong[0]!r}. Write exponents of two, integers "
            f"from -{LARGEST} to {LARGEST}"
        ]
    return []


def try_chain(
    module: ModuleType, setups: Iterable[tuple[TrainingSetup, Mapping[str, float]]]
) -> None:
    """Trace a step of an entry's chain on every board, so that errors come at once.

    Args:
        module: the module of the entry's file.
        setups: the setup of each board, with its fixed hyper-parameters.

    Raises:
        UserError: the chain fails. The message names the line of the file.
    """
    for setup, fixed in setups:
        task = setup.task()
        hparams = {"learning_rate": 0.1, "weight_decay": 0.1, "seed": 0, **fixed}
        params = jax.eval_shape(task.init, hparams)
        _trace_step(
            Path(str(module.__file__)), module.chain, task.mask, hparams, params
        )


def _trace_step(
    path: Path, chain: Chain, mask: Any, hparams: Mapping[str, float], params: Any
) -> None:
    """Trace a step on weights of these shapes."""

    def step(hparams: Any, params: Any) -> Any:
        optimizer = make_optimizer(chain, hparams, jnp.ones_like, mask)
        if not hasattr(optimizer, "update"):
            raise UserError(
                f"{path.name}: chain(run) returns {type(optimizer).__name__}. Return "
                f"an Optax transformation. See {RULES}."
            )
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    try:
        jax.eval_shape(step, hparams, params)
    except UserError:
        raise
    except jax.errors.JAXTypeError as error:
        raise UserError(
            f"{fault_of(path, error)} The numbers of run and the step are traced: do "
            f"not use them in `if`, and do not convert them. See {RULES}."
        ) from error
    except Exception as error:
        raise UserError(f"{fault_of(path, error)} See {RULES}.") from error
