"""The result of ``budget``: plain data, a table, a figure."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from decayax._core.table import aligned


class Phase(NamedTuple):
    """A part of a run.

    Attributes:
        name: such as "warm-up".
        first, stop: its steps are first ... stop - 1.
        share: of the final weights: the sum of the shares of its steps.
        updates_left: the mean fraction of its updates that is left at the end, weighted
            by the learning rate if that is known.
    """

    name: str
    first: int
    stop: int
    share: float
    updates_left: float


@dataclasses.dataclass(frozen=True, repr=False, eq=False)  # arrays have no ==
class Budget:
    r"""Where the final weights are from: the result of ``budget``.

    If parameters decay at different rates, it is the budget of those that decay
    fastest, and ``others`` has the budgets of all others. Print it for a table.

    Attributes:
        rates: :math:`d_t`, the fraction of a weight that step t removes.
        left: :math:`\mathrm{left}_t`, the fraction that is left at the end of what was
            there before step t; ``left[T]`` is 1.
        phases: of the run, with their shares.
        paths: of the parameters; empty for a budget of schedules.
        note: what else is known about the decay; "" if nothing is.
        in_proportion: whether the rate is proportional to the learning rate. If it is
            not, shares of different steps cannot be compared, and ``updates_left`` can.
            None if the learning rate is not known.
        steps_per_epoch: if it is known.
        others: the budgets of parameters that decay at other rates.
    """

    rates: Float64[np.ndarray, " steps"]
    left: Float64[np.ndarray, " steps+1"]
    phases: tuple[Phase, ...] = ()
    paths: tuple[str, ...] = ()
    note: str = ""
    in_proportion: bool | None = None
    steps_per_epoch: float | None = None
    others: "tuple[Budget, ...]" = ()

    @property
    def init(self) -> float:
        """:math:`C_0`: the fraction of the initial weights that is left at the end."""
        return float(self.left[0])

    @property
    def shares(self) -> Float64[np.ndarray, " steps"]:
        """:math:`C_t`: the share of each step. The sum of them and ``init`` is 1."""
        return self.rates * self.left[1:]

    @property
    def updates_left(self) -> Float64[np.ndarray, " steps"]:
        """The fraction of each step's update that is left at the end."""
        return self.left[1:]

    @property
    def timescale_steps(self) -> float:
        """The timescale 1/rate at the largest rate, in steps; inf without decay.

        A decay in one of k steps counts with a k-th of its rate.
        """
        return 1.0 / float(spread(self.rates).max()) if self.rates.any() else math.inf

    @property
    def e_folds(self) -> float:
        """−Σ log(1 − d_t): a weight without gradient shrinks by exp(−e_folds)."""
        with np.errstate(divide="ignore"):  # a rate of 1 erases the weights
            return float(0.0 - np.log1p(-self.rates).sum())

    @property
    def half_age(self) -> float:
        """Half of the weights that are not initial is from so many last steps.

        nan without decay.
        """
        half = np.searchsorted(self.left, 0.5 * (1.0 + self.init), side="right")
        return float(len(self.left) - half) if self.rates.any() else math.nan

    def table(self) -> str:
        """The text that ``print`` shows."""
        return "\n\n".join(map(_table_of, (self, *self.others)))

    __str__ = __repr__ = table

    def plot(self, ax: Any) -> None:
        """Draw into Matplotlib axes: what is left of each update, and its share.

        The shares are relative to the largest one.
        """
        for one in (self, *self.others):
            name = f"{_title(one)}: " if one.paths else ""
            (line,) = ax.plot(one.updates_left, label=f"{name}updates left")
            if one.rates.any():
                style = {"color": line.get_color(), "linestyle": "--"}
                label = f"{name}share / largest share"
                ax.plot(one.shares / one.shares.max(), label=label, **style)
        ax.set(xlabel="step", ylabel="fraction", ylim=(0, 1.05))
        ax.legend(fontsize="small")


def spread(rates: np.ndarray) -> np.ndarray:
    """Rates that are 0 except in one of k steps, spread over these k steps."""
    gaps = np.unique(np.diff(np.flatnonzero(rates)))
    k = int(gaps[0]) if len(gaps) == 1 else 1
    return np.convolve(rates, np.full(k, 1.0 / k))[k - 1 :] if k > 1 else rates


def _table_of(budget: Budget) -> str:
    lines = [line for line in (_title(budget), budget.note) if line]
    if not budget.rates.any():
        kept = "no decay: the initial weights and all updates are kept whole"
        return "\n".join([*lines, kept])
    rows = [("from", "steps", "of the weights", "updates left")]
    rows.append(("init", "-", f"{budget.init:.2%}", ""))
    for name, first, stop, share, left in budget.phases:
        rows.append((name, f"{first}-{stop - 1}", f"{share:.2%}", f"{left:.2%}"))
    tau, steps = budget.timescale_steps, len(budget.rates)
    time = f"timescale at the peak {_rounded(tau)} steps = {tau / steps:.3g} of the run"
    if budget.steps_per_epoch is not None:
        time += f" = {tau / budget.steps_per_epoch:.3g} epochs"
    lines += aligned(rows, right=(1, 2, 3))
    lines += [
        f"{time}; {budget.e_folds:.3g} e-folds of decay",
        f"half of what is not init is from the last {_rounded(budget.half_age)} steps",
    ]
    if budget.in_proportion is None:
        lines.append("shares can be compared if the rate follows the learning rate")
    elif not budget.in_proportion:
        lines.append(
            "the rate is not proportional to the learning rate: compare the updates "
            "left, not the shares"
        )
    return "\n".join(lines)


def _title(budget: Budget) -> str:
    more = f" and {len(budget.paths) - 1} more" if len(budget.paths) > 1 else ""
    return "".join(budget.paths[:1]) + more


def _rounded(steps: float) -> str:
    """Five digits: a rate in float32 is not known better after a few operations."""
    return f"{float(f'{steps:.5g}'):,.0f}"
