"""Several protocols in one study: every task may have its own measure and sizes.

The p-values of all contrasts of a study are corrected together.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments import outcomes, protocol, statistics
from experiments.cells import Table
from experiments.engine.study import Stage
from experiments.outcomes import Comparison
from experiments.protocol import ProtocolPlan


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointPlan:
    """The protocol of each task. All protocols have the same number of rounds."""

    plans: Mapping[str, ProtocolPlan]  # by task
    chunk: int = 8


Plan = ProtocolPlan | JointPlan


def protocols(plan: Plan) -> tuple[ProtocolPlan, ...]:
    """Return the protocols of a plan, in its order."""
    return tuple(plan.plans.values()) if isinstance(plan, JointPlan) else (plan,)


def from_manifest(description: Mapping[str, Any]) -> Plan:
    """Make a plan from its description in a manifest; see `plan_from_manifest`."""
    if "plans" in description:
        return joint_from_manifest(description)
    return outcomes.plan_from_manifest(description)


def joint_from_manifest(description: Mapping[str, Any]) -> JointPlan:
    """Make a joint plan from its description in a manifest."""
    plans = {
        name: outcomes.plan_from_manifest(each)
        for name, each in description["plans"].items()
    }
    return JointPlan(plans=plans, chunk=description["chunk"])


def stages(plan: JointPlan) -> tuple[Stage, ...]:
    """Make the stages of the protocol, each with the cells of all tasks."""
    by_task = [protocol.stages(each) for each in plan.plans.values()]
    return tuple(map(_merge, zip(*by_task, strict=True)))


def _merge(same: Sequence[Stage]) -> Stage:
    """Make one stage with the groups of all of these."""
    return Stage(
        same[0].name,
        sum(stage.runs for stage in same),
        lambda table: [group for stage in same for group in stage.make(table)],
    )


def compare_contrasts(plan: Plan, table: Table) -> list[Comparison]:
    """Compare the contrasts of all protocols, with one correction for all of them."""
    return correct(
        comparison
        for each in protocols(plan)
        for comparison in outcomes.compare_contrasts(each, table)
    )


def correct(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Apply Holm's correction to all of these contrasts together."""
    found = list(comparisons)
    corrected = statistics.holm([each.difference.p for each in found])
    return [each._replace(p_holm=p) for each, p in zip(found, corrected, strict=True)]
