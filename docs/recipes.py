"""Print docs/recipes.md: `python docs/recipes.py > docs/recipes.md`."""

import math

from decayax import recipes


HEAD = """# What known recipes amount to

Made from `decayax/_budget/recipes.csv` by `docs/recipes.py`. In Python: `dx.recipes`.

*Rate* is the fraction of a weight that one step removes at the peak of the learning
rate, and the *timescale* is 1/rate. *Init kept* is what the run leaves of a decayed
weight without gradient. *Last 20 %* is the share of the final weights that is from the
last fifth of the steps. All of these are calculated from the schedule. λ is in the
convention of the recipe:

- lr-scaled: rate = lr · λ (torch AdamW, Optax)
- independent: rate = λ (the AdamW paper, big_vision)
- L2 + momentum: rate ≈ lr · λ/(1 − μ) (torch SGD: its slow mode)

*Known from*: the official code, a paper, a second-hand copy or report, or derived from
numbers that a paper prints.
"""
COLUMNS = (
    "recipe | convention | lr | λ | rate per step | steps | timescale, steps "
    "| of the run | epochs | e-folds | init kept | last 20 % | known from"
)


def number(x: float, form: str = ".3g") -> str:
    return f"{x:{form}}" if math.isfinite(x) else "–"


def row(recipe: recipes.Recipe) -> str:
    link = f"[{recipe.sure}, {recipe.date}]({recipe.source})"
    cells = (
        recipe.name,
        recipe.convention,
        number(recipe.learning_rate),
        number(recipe.weight_decay),
        number(recipe.rate, ".2g"),
        f"{recipe.steps:,}",
        number(recipe.timescale_steps, ",.0f"),
        number(recipe.timescale_fraction),
        number(recipe.epochs),
        number(recipe.e_folds),
        number(recipe.init_kept, ".2g"),
        f"{recipe.last_fifth:.0%}",
        link + (f"; {recipe.remark}" if recipe.remark else ""),
    )
    return f"| {' | '.join(cells)} |"


def page() -> str:
    left, right = ":--|:--|", "--:|"
    lines = [HEAD, f"| {COLUMNS} |", f"|{left}{right * 10}:--|"]
    return "\n".join([*lines, *map(row, recipes.all())])


if __name__ == "__main__":
    print(page())
