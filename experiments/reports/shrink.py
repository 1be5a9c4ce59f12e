"""The mechanism as a picture: the shrink of each weight against its √v.

The arrays are those of `experiments.mechanism.measure_shrink`.
"""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from experiments.mechanism import NO_GRADIENT


Shrink = dict[str, np.ndarray]
TINY = 1e-3  # of the root mean square of all weights: too small to measure a shrink


class Line(NamedTuple):
    """log shrink = slope · log √v + constant, by least squares."""

    slope: float
    used: np.ndarray  # which weights entered


def shrink_line(arrays: Shrink) -> Line:
    """Fit log shrink to log √v, over the weights whose shrink can be measured."""
    root_v, shrink, rms_w = (arrays[name] for name in ("root_v", "shrink", "rms_w"))
    large = rms_w > TINY * np.sqrt(np.mean(rms_w**2))
    used = large & (arrays["rms_g"] > NO_GRADIENT) & (shrink > 0)
    slope, _ = np.polyfit(np.log10(root_v[used]), np.log10(shrink[used]), 1)
    return Line(float(slope), used)


def draw_shrinks(
    axes: Axes, measured: dict[str, Shrink], colours: dict[str, str]
) -> None:
    """A dot for each weight of two arms, L2 first; the formulas as lines."""
    for arm, arrays in measured.items():
        line = shrink_line(arrays)
        dots = {"color": colours[arm], "alpha": 0.25, "ms": 3, "mew": 0}
        x, y = arrays["root_v"][line.used], arrays["shrink"][line.used]
        axes.plot(x, y, ".", rasterized=True, **dots)
        label = f"{arm}: fitted slope {line.slope:+z.2f}"
        axes.plot([], [], "o", color=colours[arm], label=label)
    x = np.array(axes.get_xlim())
    l2, decoupled = (float(arrays["rate"]) for arrays in measured.values())
    axes.plot(x, l2 / x, "k--", lw=1, label=r"$\gamma\lambda/\sqrt{v}$")
    axes.plot(x, np.full(2, decoupled), "k:", lw=1.3, label=r"$\gamma\lambda$")
    axes.set_xlabel(r"$\sqrt{v}$: root of the weight's second moment")
    axes.set_ylabel("shrink: part of the weight removed in one step")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
