"""The table for modules of NNX, Linen and Equinox: `MODULES`.

``make()`` returns (module, variables, inputs). The variables are None except for Linen.
Batch norm uses the statistics of the batch. Dropout is on; `function_of` switches it
off:

* NNX: ``module.set_attributes(deterministic=True)``
* Linen: ``module.apply(..., deterministic=True, mutable=["batch_stats"])``
* Equinox: ``inference=True`` of each Dropout, but not of BatchNorm. If the module has a
  field `layers`, its last input is the state of BatchNorm; it returns the outputs only.
"""

from collections.abc import Callable
from typing import Any

from symmetric import (
    forwards,
    forwards_sequence,
    idiomatic,
    in_equinox,
    in_linen,
    in_nnx,
)
from symmetric.model import Model


FRAMEWORKS = {"nnx": in_nnx, "linen": in_linen, "equinox": in_equinox}


def function_of(model: Model) -> tuple[Callable[[Any], Any], Any]:
    """The outputs as a function of the parameters, and the parameters."""
    made = model.make()
    if model.framework == "jax":
        return made
    return FRAMEWORKS[model.framework].function_of(*made)


def translated(architecture: forwards.Architecture, framework: str) -> Model:
    """The truth with the paths and axes of the framework."""
    module = FRAMEWORKS[framework]

    def renamed(path: str) -> str:
        return module.rename(path, architecture.layers)

    def axes(path: str, along: str) -> tuple[int, ...]:
        kind, *sizes = architecture.layers[path.split("/")[0]]
        return () if along == "whole" else module.output_axes(kind, sizes)

    return Model(
        name=architecture.name,
        make=lambda: module.make(architecture),
        invariant={
            renamed(p): axes(p, how) for p, how in architecture.invariant.items()
        },
        dead=tuple(renamed(path) for path in architecture.dead.split()),
        groups=tuple(
            {renamed(p): v for p, v in g.items()} for g in architecture.groups
        ),
        stacks={},
        optional=(),
        near=(),
        framework=framework,
    )


MODULES = (
    [
        translated(architecture, framework)
        for architecture in (*forwards.ARCHITECTURES, *forwards_sequence.ARCHITECTURES)
        for framework in FRAMEWORKS
    ]
    + idiomatic.NNX
    + idiomatic.LINEN
    + idiomatic.EQUINOX
)
