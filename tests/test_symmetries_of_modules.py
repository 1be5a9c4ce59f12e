"""The same answers for modules of Flax NNX, Flax Linen and Equinox."""

import pytest
from symmetric.checking import Probe
from symmetric.comparison import differences
from symmetric.modules import MODULES

import decayax as dx


pytestmark = [pytest.mark.needs_flax, pytest.mark.relaxed("the models")]
FUNCTIONS = {
    "nnx": lambda module, _, inputs: dx.nnx_function(module, *inputs),
    "linen": lambda module, variables, inputs: dx.linen_function(
        module, variables, *inputs
    ),
    "equinox": lambda module, _, inputs: dx.equinox_function(module, *inputs),
}


@pytest.mark.parametrize("row", MODULES, ids=lambda row: f"{row.framework}-{row.name}")
def test_known_answer(row):
    """Dropout is on and batch norm is as the module has it: the functions mend it."""
    function, params = FUNCTIONS[row.framework](*row.make())
    found = dx.scale_symmetries(function, params)
    paths = list(dict.fromkeys(Probe(row, function, params).paths))
    assert differences(row, paths, found.leaves, found.groups) == []
    assert not any("undecided" in note for note in found.notes)
    assert not any("random" in note for note in found.notes[1:])
