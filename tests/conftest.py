"""Strict everywhere: no silent dtype or rank promotion, two CPU devices, no x64."""

import os


TWO_DEVICES = " --xla_force_host_platform_device_count=2"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + TWO_DEVICES

import contextlib  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.hookimpl(tryfirst=True)  # before `-m "not needs_extras"` selects
def pytest_collection_modifyitems(items):
    """A doctest that imports a framework for models needs it."""
    for item in items:
        examples = getattr(getattr(item, "dtest", None), "examples", ())
        source = "".join(example.source for example in examples)
        if "flax" in source or "equinox" in source:
            item.add_marker(pytest.mark.needs_extras)


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
