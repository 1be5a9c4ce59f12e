"""What a finding is, and what it is made from."""

from typing import NamedTuple

from decayax._audit.leaf import LeafAudit


class Finding(NamedTuple):
    """A problem of an optimizer's decay, or something to know about it.

    Attributes:
        kind: such as "growth"; what ``Audit.check(allow=...)`` takes.
        serious: whether ``Audit.check()`` raises because of it.
        text: what was found, as one or two sentences.
        hint: what to change.
        paths: of the parameters it is about; empty if it is about all of them.
    """

    kind: str
    serious: bool
    text: str
    hint: str
    paths: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.text} {self.hint}"


class Evidence(NamedTuple):
    """A leaf, and what the measurement shows in addition."""

    leaf: LeafAudit
    cause: str  # of a dependence on gradients or weights
    extremes: tuple[float, float]  # the smallest and the largest rate of single weights
    not_finite: str  # at which gradients, or in which dtype; empty if finite
    clipped_to: float  # the fraction of the decay that a clip leaves
    share_of_steps: float  # in which the weights decay, of those in which they move
    still_changes: bool
    proportional: bool  # steps in proportion to the weights, without decay
    later_rate: tuple[int, float] | None  # step, rate: it begins after these steps
    # pulled to what the state keeps; the mode may be a more serious one
    anchored: bool = False
