"""How strong: the budget of a run, known recipes, transfer, and advice.

`budget` has the formulas; its rates are those of schedules, or of an optimizer
(`measured`). `recipes` are data with the same formulas. `transfer` carries a strength
to another run, and `advise` puts the published rules next to each other.
"""

from decayax._budget import recipes as recipes
from decayax._budget.advise import Advice as Advice, advise as advise
from decayax._budget.budget import budget as budget
from decayax._budget.report import Budget as Budget
from decayax._budget.transfer import Transfer as Transfer, transfer as transfer


__all__ = [
    "budget",  # how strong: what a strength does, what others use, what rules say
    "Budget",
    "recipes",
    "transfer",
    "Transfer",
    "advise",
    "Advice",
]
