"""The audit against optimizers whose decay was derived by hand."""

import functools

import audited as truth
import jax
import jax.numpy as jnp
import optax
import pytest
from audit_cases import no_warning as no_warning

import decayax as dx


pytestmark = pytest.mark.relaxed("optax's optimizers and adding in 16 bits")
RUNNABLE = [row for row in truth.ROWS if "not auditable" not in row.findings]


def named(rows):
    return [pytest.param(row, id=row.name.replace(" ", "_")) for row in rows]


def concrete(leaf):
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jnp.ones(leaf.shape, leaf.dtype)
    return jnp.asarray(leaf)


def built(make):
    """The optimizer; skip if this optax does not have it."""
    try:
        return make()
    except AttributeError as error:
        pytest.skip(str(error))


def three_steps(row: truth.Row, optimizer):
    params, options = jax.tree.map(concrete, row.params()), row.options()
    grads = options.get("gradients", jax.tree.map(jnp.ones_like, params))

    def update(grads, state, params):
        return optimizer.update(grads, state, params, **options.get("extra_args", {}))

    for name in options.get("axis_names", ()):
        update = jax.vmap(
            update, in_axes=None, out_axes=None, axis_name=name, axis_size=1
        )

    def run(grads, params):
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = update(grads, state, params)
            params = dx.apply_updates(params, updates)
        return params

    # The audit runs them; here it is enough to trace them, which compiles nothing.
    return jax.eval_shape(run, grads, params)


@pytest.mark.parametrize("row", named(RUNNABLE))
def test_optimizers_of_the_table_can_be_traced(row):
    for make in filter(None, (row.make, row.cured)):
        optimizer = built(make)
        if not isinstance(optimizer, optax.GradientTransformation):
            optimizer = optimizer(1e-3)  # a factory
        params = three_steps(row, optimizer)
        assert jax.tree.structure(params) == jax.tree.structure(row.params())


def test_rows_are_consistent():
    names = [row.name for row in truth.ROWS]
    assert len(set(names)) == len(names)
    for row in truth.ROWS:
        assert {*row.findings, *row.never} <= {*truth.KINDS}, row.name
        assert set(row.rates) <= set(row.modes), row.name
        assert not row.by_step or "at_steps" in row.options(), row.name
        assert row.cured is None or row.findings, row.name
        if set(row.findings) & set(truth.SERIOUS):
            assert row.raises, row.name


@functools.cache
def audited(make, params, options):
    """The audit of an optimizer; rows with the same functions share it."""
    return dx.audit(built(make), params(), **options())


def kinds(report) -> set[str]:
    return {finding.kind for finding in report.findings}


def check_modes_and_rates(row: truth.Row, report) -> None:
    leaves = {leaf.path: leaf for leaf in report.leaves}
    for path, mode in row.modes.items():
        allowed = (mode,) if isinstance(mode, str) else mode
        assert leaves[path].mode in allowed, (path, leaves[path].mode)
    for path, rate in row.rates.items():
        expected = pytest.approx(rate, rel=row.tolerance, abs=1e-8)
        assert leaves[path].rate == expected, path
    if row.by_step:
        measured = dict(leaves["kernel"].by_step)
        for step, rate in row.by_step:
            expected = pytest.approx(rate, rel=0.02, abs=1e-8)
            assert measured[step] == expected, step


@pytest.mark.parametrize("row", named(truth.ROWS))
def test_audit_says_the_truth(row):
    report = audited(row.make, row.params, row.options)
    check_modes_and_rates(row, report)
    found, text = kinds(report), str(report)
    assert set(row.findings) <= found
    assert not {kind for kind in row.never if kind not in row.findings} & found
    assert [part for part in row.says if part not in text] == []
    assert [part for part in row.says_not if part in text] == []
    if row.raises:
        with pytest.raises(ValueError, match=r"."):
            report.check()
    else:
        report.check()


@pytest.mark.parametrize("row", named(row for row in truth.ROWS if row.cured))
def test_audit_of_the_cure_lacks_the_finding(row):
    report = audited(row.cured, row.params, row.options)
    assert not kinds(report) & set(row.findings)
