"""What decay an optimizer really applies: followed, read, judged and told.

`plan` says what to follow, `probe` follows it under `noise`, `measure` and `readings`
make rates of it, `findings` judges them, and `report` tells; `clues` looks for what was
asked for.
"""

from decayax._audit.audit import audit as audit
from decayax._audit.report import Audit as Audit
