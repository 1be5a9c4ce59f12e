"""What decay an optimizer really applies.

`audit` is the public function. `plan` decides what to measure, `probe` runs the
optimizer on numbers from `draws`, `measure` and `readings` turn the runs into rates,
`findings` judges the rates, and `report` prints them. `declared` looks up the strength
that the optimizer was given.
"""

from decayax._audit.audit import audit as audit
from decayax._audit.finding import Finding as Finding
from decayax._audit.leaf import LeafAudit as LeafAudit
from decayax._audit.report import Audit as Audit
