"""The true scale symmetries of many models, derived on paper: `ROWS`."""

from symmetric import (
    convs as convs,
    further as further,
    gates as gates,
    mlps as mlps,
    modern as modern,
    normalized as normalized,
    stacks as stacks,
    transformers as transformers,
)
from symmetric.model import Model as Model, ROWS as ROWS
