"""`python -m decayax`: what it prints where, its exit status, and what it imports."""

import inspect
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import decayax as dx
from decayax._audit.findings import KINDS
from decayax._cli.arguments import MEASUREMENT, parser
from decayax._cli.command import main
from decayax._cli.plain import finite


ROOT = Path(__file__).parent.parent
TABLE = "parameter  dtype    mode     rate/step  half-life\n"
MODULE = """
import jax.numpy as jnp, optax, decayax as dx

params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
decay = dx.decoupled_decay(0.1, mask=dx.masks.no_bias_or_norm)
sgdw = optax.chain(decay, optax.sgd(1e-2))
growth = optax.add_decayed_weights(0.1)

def make(): return sgdw
def make_at(rate=1e-3): return optax.chain(dx.decoupled_decay(0.1), optax.sgd(rate))
def make_for(rate): return make_at(rate)
def get_params(): return params
def needs_key(key): return params
def misspelt(rate): return optax.sgd(learning_rat=rate)
def no_data(): raise KeyError("no data")
def raises(updates, state, params=None): raise RuntimeError("in update")
breaks = optax.GradientTransformation(lambda params: (), raises)
class holder: mask = dx.masks.by_path([("kernel", 0.5)], default=0.0)
mask = dx.masks.no_bias_or_norm
wrong_mask = {"kernel": "yes", "bias": False}
with_key = {"key": __import__("jax").random.key(0)}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a module of a user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "ours.py").write_text(MODULE)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def call(folder, capsys):
    """Run the command; the result is status, stdout, stderr."""

    def call(*argv):
        try:
            status = main(argv)
        except SystemExit as stop:  # of argparse
            status = stop.code
        return status, *capsys.readouterr()

    return call


def audit(call, optimizer, *options, params="ours:params"):
    return call("audit", optimizer, "--params", params, "--steps", "8", *options)


def test_a_passed_check(call):
    status, out, err = audit(call, "ours:sgdw")
    assert (status, err) == (0, "")
    assert out.startswith(TABLE)
    assert "kernel     float32  uniform  0.001      692.8 steps" in out
    assert "measured over 8 steps" in out


def test_a_failed_check(call):
    status, out, err = audit(call, "ours:growth")
    assert status == 1
    assert out.startswith("parameter  dtype    mode    rate/step")
    assert "python -m decayax audit: the decay has serious problems.\ngrowth: " in err
    assert err.endswith("If this is intended, add --allow 'growth'.\n")
    status, _, err = audit(call, "ours:growth", "--allow", "growth")
    assert (status, err) == (0, "")


def test_options_of_the_check(call):
    """A half-life of 693 steps: short for a run of 100 000, or for one's own bound."""
    for option, bound in [("--check-steps", 100_000), ("--min-half-life", 700)]:
        status, _, err = audit(call, "ours:sgdw", option, str(bound))
        assert status == 1
        assert "half-life too short: " in err
    assert audit(call, "ours:sgdw", "--check-steps", "10000")[0] == 0


@pytest.mark.parametrize("optimizer", ["make", "make_at"])
def test_a_function_without_arguments_is_called(call, optimizer):
    status, out, _ = audit(call, f"ours:{optimizer}", params="ours:get_params")
    assert status == 0
    assert "follows lr" not in out


@pytest.mark.parametrize("optimizer", ["make_at", "make_for"])
def test_a_factory_gets_the_learning_rate(call, optimizer):
    options = ("--learning-rate", "0.02", "--json")
    _, out, err = audit(call, f"ours:{optimizer}", *options)
    assert "was called with" not in err
    for leaf in json.loads(out)["leaves"]:
        assert leaf["rate"] == pytest.approx(0.002, rel=1e-4)
        assert leaf["follows_learning_rate"]


def test_without_a_learning_rate_the_command_names_those_of_the_audit(call):
    _, _, err = audit(call, "ours:make_for")
    (line,) = [line for line in err.splitlines() if "ours:make_for is a fun" in line]
    default = inspect.signature(dx.audit).parameters["learning_rate"].default
    assert f"called with {default:g} and {default / 2:g}." in line
    for optimizer in ("sgdw", "make"):
        assert "was called with" not in audit(call, f"ours:{optimizer}")[2]


def test_a_file_and_a_package(call, folder):
    (folder / "pkg" / "deep").mkdir(parents=True)
    (folder / "pkg" / "deep" / "sizes.py").write_text("size = 5")
    text = "import jax.numpy as jnp\nfrom sizes import size\nw = {'w': jnp.ones(size)}"
    (folder / "pkg" / "deep" / "tree.py").write_text(text)
    (folder / "pkg" / "own.py").write_text("from .tree import w")
    (folder / "pkg" / "tree.py").write_text("w = {'w': 1.0}")
    arguments = ("describe", "decayax.masks:no_bias_or_norm", "--params")
    assert "w          (5,)" in call(*arguments, "pkg/deep/tree.py:w")[1]
    assert "w          ()" in call(*arguments, "pkg.own:w")[1]


def test_a_file_runs_once(call, folder):
    (folder / "once.py").write_text(
        "from pathlib import Path\nPath('ran').touch(exist_ok=False)\nimport ours\n"
        "o, p = ours.sgdw, ours.params"
    )
    assert audit(call, "once.py:o", params="./once.py:p")[0] == 0


def test_describe(call):
    status, out, err = call("describe", "ours:holder.mask", "--params", "ours:params")
    assert (status, err) == (0, "")
    mask = dx.masks.by_path([("kernel", 0.5)], default=0.0)
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    assert out == f"{dx.masks.describe(mask, params)}\n"


# --- JSON -------------------------------------------------------------------------


def no_constant(name):
    raise AssertionError(f"{name} is not JSON")


def schema(command):
    """The keys that the page documents."""
    text = (ROOT / "docs" / "reference" / "command.md").read_text()
    section = text.split(f"### JSON of `{command}`")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([\w.\[\]]+)` \|", section.split("\n### ")[0], re.M))


def keys(data, prefix=""):
    """All keys; those of a list's items have "[]" before them."""
    if isinstance(data, list) and data and isinstance(data[0], dict):
        return keys(data[0], f"{prefix}[].")
    if not isinstance(data, dict):
        return set()
    own = {f"{prefix}{key}" for key in data}
    return own.union(*(keys(value, f"{prefix}{key}") for key, value in data.items()))


@pytest.mark.needs_checkout
def test_json_of_audit_has_the_documented_keys(call):
    status, out, _ = audit(call, "ours:growth", "--horizon", "100", "--json")
    data = json.loads(out, parse_constant=no_constant)
    assert status == 1
    assert keys(data) == schema("audit")
    assert not data["passed"]
    assert data["failures"][0]["kind"] == "growth"
    assert data["leaves"][0]["half_life_steps"] is None  # it grows


@pytest.mark.needs_checkout
def test_json_of_describe_has_the_documented_keys(call):
    arguments = ("describe", "ours:mask", "--params", "ours:params", "--json")
    data = json.loads(call(*arguments)[1], parse_constant=no_constant)
    assert keys(data) == schema("describe")
    assert [row["multiplier"] for row in data["rows"]] == [0.0, 1.0]
    assert (data["decayed"], data["excluded"]) == (6, 3)


def test_numbers_that_are_not_finite_are_null():
    tree = {"a": (math.inf, 1.0), "b": np.array([math.nan, 2]), "c": jnp.float32(3)}
    assert finite(tree) == {"a": [None, 1.0], "b": [None, 2.0], "c": 3.0}


# --- errors -----------------------------------------------------------------------

ERRORS = {
    "ours": "OPTIMIZER must be package.module:name or path/to/file.py:name, got 'ours'",
    ":sgdw": "OPTIMIZER must be package.module:name or path/to/file.py:name",
    "our:sgdw": "OPTIMIZER: there is no module 'our', neither in",
    "ours.deep:sgdw": "OPTIMIZER: there is no module 'ours.deep', neither in",
    "our.py:sgdw": "OPTIMIZER: there is no file ",
    "json.py:sgdw": "json. Rename the file.",
    "ours:sdgw": "OPTIMIZER: ours has no 'sdgw'. It has params, decay, sgdw, ",
    "ours:params": "audit: optimizer must be an optax.GradientTransformation",
    "optax:GradientTransformation": "is a class. Name an optimizer, or a function",
}


@pytest.mark.parametrize(("optimizer", "text"), ERRORS.items())
def test_a_wrong_command_is_one_line(call, folder, optimizer, text):
    (folder / "json.py").write_text("")
    status, out, err = audit(call, optimizer)
    assert (status, out) == (2, "")
    assert err.startswith("python -m decayax audit: ")
    assert text in err
    assert err.count("\n") == 1


def test_parameters_that_are_none(call):
    _, _, err = audit(call, "ours:sgdw", params="ours:needs_key")
    assert "--params: ours:needs_key needs arguments, (key). Write a function" in err
    _, _, err = audit(call, "ours:sgdw", params="ours:with_key")
    assert "audit: key is not a parameter, but a PRNG key." in err
    assert "Traceback" not in err


@pytest.mark.needs_flax
@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (
            "import equinox as eqx, jax; model = eqx.nn.MLP(1, 1, 1, 1, "
            "key=jax.random.key(0))",
            "For an Equinox model, pass eqx.filter(model, eqx.is_inexact_array).",
        ),
        (
            "from flax import nnx; model = nnx.BatchNorm(2, rngs=nnx.Rngs(0))",
            "For an NNX model, pass nnx.state(model, nnx.Param).",
        ),
    ],
)
def test_a_module_is_not_called(call, folder, code, hint):
    """It is a tree, or a callable that needs inputs; the library says what to pass."""
    (folder / "net.py").write_text(code)
    status, _, err = call("describe", "ours:mask", "--params", "net:model")
    assert status == 2
    assert err.startswith("python -m decayax describe: masks.describe: ")
    assert hint in err


def test_a_learning_rate_without_a_factory(call):
    for optimizer in ("sgdw", "make"):
        status, _, err = audit(call, f"ours:{optimizer}", "--learning-rate", "0.1")
        assert status == 2
        assert "--learning-rate needs a function learning_rate -> optimizer" in err


@pytest.mark.parametrize(
    ("optimizer", "params", "line", "last"),
    [
        ("misspelt", "params", "optax.sgd(learning_rat=rate)", "ours:misspelt(0.001)"),
        ("sgdw", "no_data", "KeyError: 'no data'", "ours:no_data()"),
        ("breaks", "params", "RuntimeError: in update", "dx.audit got this error"),
    ],
)
def test_an_error_of_the_users_code_has_its_traceback(
    call, optimizer, params, line, last
):
    status, out, err = audit(call, f"ours:{optimizer}", params=f"ours:{params}")
    assert (status, out) == (2, "")
    assert err.startswith("Traceback (most recent call last):\n")
    assert "ours.py" in err
    assert line in err
    assert last in err.splitlines()[-1]
    assert "_cli" not in err


def test_an_error_of_an_import_has_its_traceback(call, folder):
    (folder / "failing.py").write_text("import ours\nimport not_installed_at_all")
    status, _, err = audit(call, "failing:x")
    assert status == 2
    assert 'failing.py", line 2' in err
    assert "No module named 'not_installed_at_all'" in err
    assert "importlib" not in err
    (folder / "script.py").write_text("import sys; sys.exit(3)")
    status, _, err = audit(call, "script.py:x")
    assert status == 2
    assert "script.py ended the program (exit status 3)." in err


def test_a_wrong_mask_is_one_line(call):
    status, _, err = call("describe", "ours:wrong_mask", "--params", "ours:params")
    assert status == 2
    assert err.startswith("python -m decayax describe: masks.describe: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--steps", "0"], "argument --steps: must be an integer >= 1, got 0"),
        (["--steps", "many"], "argument --steps: must be an integer >= 1, got many"),
        (["--at-steps", "-1"], "argument --at-steps: must be an integer from 0"),
        (["--seeds", "1.5"], "argument --seeds: must be an integer >= 1, got 1.5"),
        (["--learning-rate", "nan"], "must be a number > 0, got nan"),
        (["--min-half-life", "0"], "must be a number > 0, got 0"),
        (["--weight-decay", "-1"], "must be a number >= 0, got -1"),
        (["--allow", "grow"], "argument --allow: invalid choice: 'grow'"),
    ],
)
def test_a_wrong_option_is_a_usage_error(call, options, text):
    status, out, err = audit(call, "ours:sgdw", *options)
    assert (status, out) == (2, "")
    assert text in err


# --- help, and the process --------------------------------------------------------


def test_the_options_are_the_numbers_of_audit_and_check():
    command = parser()._subparsers._group_actions[0].choices["audit"]
    options = {word for action in command._actions for word in action.option_strings}
    signature = inspect.signature(dx.audit).parameters
    numbers = {
        name
        for name, parameter in signature.items()
        if re.search("int|float|bool", str(parameter.annotation))
        and name != "optimizer"
    }
    assert numbers == {name for name, *_ in MEASUREMENT} | {"sample"}
    assert {f"--{name.replace('_', '-')}" for name in numbers} < options
    check = set(inspect.signature(dx.Audit.check).parameters) - {"self", "steps"}
    assert {f"--{name.replace('_', '-')}" for name in check} < options
    assert set(MAKES) == {name for name, *_ in MEASUREMENT}


MAKES = {
    "learning_rate": ("0.5", 0.5),
    "steps": ("7", 7),
    "horizon": ("1_000", 1000),
    "at_steps": ("0 20", [0, 20]),
    "gradient_scales": ("0.1 1", [0.1, 1.0]),
    "seeds": ("3", 3),
    "weight_decay": ("0", 0.0),
}


def test_each_option_reaches_the_audit(call, monkeypatch):
    seen = {}

    def audit_with(optimizer, params, **arguments):
        seen.update(arguments)
        return dx.Audit((), (), 1, True, False)

    monkeypatch.setattr("decayax._cli.command.audit", audit_with)
    options = [
        word
        for name, (text, _) in MAKES.items()
        for word in [f"--{name.replace('_', '-')}", *text.split()]
    ]
    arguments = ("audit", "ours:make_for", "--params", "ours:params", "--no-sample")
    assert call(*arguments, *options)[0] == 0
    assert seen == {name: value for name, (_, value) in MAKES.items()} | {
        "sample": False
    }
    seen.clear()
    assert call("audit", "ours:make_for", "--params", "ours:params")[0] == 0
    assert seen == {}


def test_help(call):
    status, out, _ = call("audit", "--help")
    assert status == 0
    told = " ".join(out.split())
    for text in ("(default: 200)", "(default: 0.01 1 100)", "exit status:"):
        assert text in told
    assert "None" not in told
    assert all(len(line) <= 88 for line in out.splitlines())
    assert "audit" in call("--help")[1]
    assert call()[0] == 2
    assert {"growth", "gradient-dependent"} <= set(KINDS)  # named in the help


def test_the_process(folder):
    """The current folder can be imported; the exit status is that of the check."""
    command = [sys.executable, "-m", "decayax", "audit", "ours:growth", "--params"]
    ran = subprocess.run(
        [*command, "ours:params", "--steps", "5"], capture_output=True, text=True
    )
    assert ran.returncode == 1, ran.stderr
    assert "growth: " in ran.stdout
