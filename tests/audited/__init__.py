"""What `dx.audit` must say: a table of optimizers, by subject."""

from audited import (
    catalogue as catalogue,
    combined as combined,
    kinds as kinds,
    norms as norms,
    optimizers as optimizers,
    places as places,
    precision as precision,
    pulls as pulls,
    schedules as schedules,
    trees as trees,
    within_a_leaf as within_a_leaf,
    wrappers as wrappers,
)
from audited.row import KINDS as KINDS, Row as Row, ROWS as ROWS, SERIOUS as SERIOUS
