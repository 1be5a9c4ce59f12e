"""Strict everywhere: no silent dtype or rank promotion, two CPU devices, no x64."""

import os


TWO_DEVICES = " --xla_force_host_platform_device_count=2"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + TWO_DEVICES

import collections  # noqa: E402
import contextlib  # noqa: E402
import importlib.util  # noqa: E402
import zlib  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402


# Files of long tables, whose rows compile for seconds. `make test` runs one case in 8
# or in 5 of each of their tests. `make test-all` and `make mutants` run every case.
ONE_IN = {
    8: "adopt_state aliases audit_truth catalogue_uses contract jaxpr_quotient "
    "multipliers rounding sixteen_bits symmetries symmetries_of_modules "
    "telemetry_equilibrium telemetry_readout telemetry_steps telemetry_truth "
    "trajectories",
    5: "apply_updates audit audit_arguments audit_findings audit_measurement "
    "audit_modes audit_sampling audit_steps boxes catalogue_errors "
    "catalogue_identities catalogue_laws catalogue_options centered derivatives "
    "free_of_charge jaxpr_counters masks pairs rates symmetry_models symmetry_uses "
    "telemetry with_decay",
}
EVERY = {f"test_{name}": k for k, names in ONE_IN.items() for name in names.split()}


# What some files need when they are imported. Markers come too late for them.
MODELS, EXPERIMENTS = ("flax", "equinox"), ("experiments", "flax", "sklearn")
NEEDS = {
    "test_symmetries_of_modules.py": MODELS,
    "test_grokking.py": EXPERIMENTS,
    "test_leaderboard.py": EXPERIMENTS,
}


def pytest_ignore_collect(collection_path):
    """Ignore helpers, which have no doctests, and files that cannot be imported."""
    name = collection_path.name
    is_helper = collection_path.suffix == ".py" and not name.startswith("test_")
    missing = [x for x in NEEDS.get(name, ()) if importlib.util.find_spec(x) is None]
    return True if is_helper or missing else None


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` selects
def pytest_collection_modifyitems(items):
    mark_doctests(items)
    mark_cases(items)


def mark_cases(items):
    """Mark the cases of long tables that only `make test-all` runs."""
    cases = collections.defaultdict(list)
    for item in items:
        cases[item.path, getattr(item, "originalname", item.name)].append(item)
    for (path, name), own in cases.items():
        every = EVERY.get(path.stem, 1)
        # Tests of one table begin at different rows.
        first = zlib.crc32(name.encode()) % min(every, len(own))
        for index, item in enumerate(own):
            if index % every != first:
                item.add_marker(pytest.mark.slow)


def mark_doctests(items):
    """A doctest that imports a framework for models needs it."""
    for item in items:
        examples = getattr(getattr(item, "dtest", None), "examples", ())
        source = "".join(example.source for example in examples)
        if "flax" in source or "equinox" in source:
            item.add_marker(pytest.mark.needs_flax)


@pytest.fixture(autouse=True)
def strict(request):
    """Strict promotion, unless a marker names the part of optax that is not clean."""
    promotion = "standard" if request.node.get_closest_marker("relaxed") else "strict"
    rank = "allow" if request.node.get_closest_marker("relaxed") else "raise"
    with (
        jax.numpy_dtype_promotion(promotion),
        jax.numpy_rank_promotion(rank),
    ):
        yield


@pytest.fixture
def x64():
    """Float64 for one test."""
    with enable_x64():
        yield


def enable_x64() -> contextlib.AbstractContextManager:
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64 as experimental

    return experimental()
