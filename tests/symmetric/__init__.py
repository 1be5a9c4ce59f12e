"""The true scale symmetries of many models, derived on paper: `ROWS`."""

from symmetric import (
    convs as convs,
    mlps as mlps,
    normalized as normalized,
)
from symmetric.model import Model as Model, ROWS as ROWS
