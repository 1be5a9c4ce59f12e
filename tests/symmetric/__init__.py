"""The true scale symmetries of many models, derived on paper: `ROWS`."""

from symmetric import (
    convs as convs,
    mlps as mlps,
    modern as modern,
    normalized as normalized,
    transformers as transformers,
)
from symmetric.model import Model as Model, ROWS as ROWS
