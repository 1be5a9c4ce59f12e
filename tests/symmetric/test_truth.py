"""The table is right: finite scaling in float64 (see `checking`)."""

import dataclasses
from types import SimpleNamespace

import pytest

from symmetric import ROWS
from symmetric.checking import faults_of, index_of, Probe
from symmetric.comparison import coarser, differences
from symmetric.model import group
from symmetric.random_networks import random_network


@pytest.mark.parametrize("model", ROWS, ids=lambda model: model.name)
def test_the_truth_holds(model):
    assert faults_of(model) == []


@pytest.mark.parametrize("seed", range(10))
def test_random_networks_follow_from_degrees(seed):
    assert faults_of(random_network(seed)) == []


@pytest.mark.needs_extras
def test_modules():
    from symmetric.modules import MODULES

    assert [fault for model in MODULES for fault in faults_of(model)] == []


BY_NAME = {model.name: model for model in ROWS}


@pytest.mark.parametrize(
    ("name", "changes", "fault"),
    [
        ("mlp_relu", {"groups": (group("w1 b1 b2", "w3"),)}, "dimension 2, listed 1"),
        ("mlp_gelu", {"groups": (group("w1 b1", "w2"),)}, "changes the outputs by"),
        ("mlp_softcap", {"groups": BY_NAME["mlp_softcap"].near}, "changes the outputs"),
        ("swiglu", {"near": (group("up ub", "down"),)}, "only"),
        ("batch_norm_cnn", {"invariant": {"k1": (3,)}}, "'k2': 1.0"),
        ("batch_norm_cnn", {"invariant": {"k1": (3,), "k2": ()}}, "also invariant"),
        ("batch_norm_cnn", {"invariant": {"k1": (2,), "k2": (3,)}}, "not invariant"),
        ("batch_norm_conv_bias", {"dead": ["b1"]}, "'b2': 1.0"),
        ("mlp_relu", {"dead": ("b3",)}, "b3 is not dead"),
        ("mlp_relu", {"dead": ("b4",)}, "no such leaf"),
        ("qk_norm", {"groups": BY_NAME["qk_norm"].groups[1:]}, "14, listed 13"),
        ("scan_with_flags", {"invariant": {"w[0]": ()}}, "'w[2]': 1.0"),
    ],
)
def test_a_wrong_truth_is_found(name, changes, fault):
    wrong = dataclasses.replace(BY_NAME[name], **changes)
    assert any(fault in text for text in faults_of(wrong)), faults_of(wrong)


def reported(model, paths):
    """The leaves of a result without faults."""
    for path in paths:
        parameter, index = index_of(path)
        yield SimpleNamespace(
            path=path,
            parameter=parameter,
            slice=(len(index) - 1, index[-1]) if index else None,
            kind=model.kind(path),
            axes=model.invariant.get(path, ()),
        )


@pytest.mark.parametrize("model", ROWS, ids=lambda model: model.name)
def test_the_truth_agrees_with_itself(model):
    paths = Probe(model, *model.make()).paths
    leaves = list(reported(model, paths))
    groups = [{path: 3 * x for path, x in group.items()} for group in model.groups]
    assert differences(model, paths, leaves, groups) == []
    if groups:
        assert differences(model, paths, leaves, groups[1:])
        assert differences(model, paths, leaves, [*groups[1:], {paths[0]: 1.0}])
    leaves[0].kind = "joint" if leaves[0].kind == "seen" else "seen"
    assert differences(model, paths, leaves, groups)


def test_a_stack_as_one_leaf():
    """Equal exponents of all slices: only `optional` stacks may be reported so."""
    for name, accepted in (("mixture_of_experts", True), ("ensemble", False)):
        model = BY_NAME[name]
        paths = Probe(model, *model.make()).paths
        one = coarser(model, paths, model.stacks)
        whole = list(dict.fromkeys(path.partition("[")[0] for path in paths))
        faults = differences(model, paths, list(reported(one, whole)), one.groups)
        assert (faults == []) == accepted
        assert all("expected slices along the axis" in fault for fault in faults)
