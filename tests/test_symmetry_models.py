"""Functions of the parameters from NNX, Linen and Equinox modules.

A kernel before a batch normalization is scale-invariant with the statistics of the
batch, and not with running means. Dropout would make two calls differ.
"""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import decayax as dx


pytestmark = [
    pytest.mark.needs_flax,
    pytest.mark.relaxed("flax: its initialisers"),
]
X = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)


def scaled(params, path, factor=3.0):
    """The parameters with one leaf times a factor."""

    def scale(keys, leaf):
        name = jax.tree_util.keystr(keys, simple=True, separator="/")
        return factor * leaf if name.removesuffix("/value") == path else leaf

    changed = jax.tree_util.tree_map_with_path(scale, params)
    same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), changed, params)
    assert not all(jax.tree.leaves(same)), f"no {path}"
    return changed


def assert_invariant(function, params, path, seen=None):
    """The outputs do not see the scale at `path`, but that at `seen`."""
    before = function(params)
    np.testing.assert_array_equal(before, function(params))  # not random
    np.testing.assert_allclose(before, jax.jit(function)(params), atol=1e-5)
    np.testing.assert_allclose(function(scaled(params, path)), before, atol=2e-4)
    if seen:
        assert np.max(np.abs(function(scaled(params, seen)) - before)) > 0.05


# --- NNX --------------------------------------------------------------------------


def nnx_net(**flags):
    """A kernel, a BatchNorm, a dropout, a head; flags of the constructors or calls."""
    from flax import nnx

    in_call = flags.pop("in_call", False)

    class Net(nnx.Module):
        def __init__(self, rngs):
            of_norm, of_dropout = ({}, {}) if in_call else split_flags(flags)
            self.body = nnx.Linear(4, 8, rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs, **of_norm)
            self.dropout = nnx.Dropout(0.5, **of_dropout)  # without rngs
            self.head = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x):
            of_norm, of_dropout = split_flags(flags) if in_call else ({}, {})
            x = self.norm(self.body(x), **of_norm)
            return self.head(self.dropout(jax.nn.relu(x), **of_dropout))

    return Net(nnx.Rngs(0))


def split_flags(flags):
    return (
        {"use_running_average": flags["use_running_average"]},
        {"deterministic": flags["deterministic"]},
    )


@pytest.mark.parametrize("in_call", [False, True])
@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
def test_nnx_modes(in_call, running, deterministic):
    model = nnx_net(
        use_running_average=running, deterministic=deterministic, in_call=in_call
    )
    function, params = dx.nnx_function(model, X)
    assert_invariant(function, params, "body/kernel", seen="head/kernel")
    # The reference: by hand, without dropout.
    body, norm, head = params["body"], params["norm"], params["head"]
    y = X @ body["kernel"][...] + body["bias"][...]
    y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5) * norm["scale"][...]
    y = np.maximum(y + norm["bias"][...], 0) @ head["kernel"][...] + head["bias"][...]
    np.testing.assert_allclose(function(params), y, atol=1e-4)


@pytest.mark.parametrize("switch", ["train", "eval"])
def test_an_nnx_module_is_not_changed(switch):
    from flax import nnx

    model = nnx_net(use_running_average=False, deterministic=False)
    getattr(model, switch)()
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model)))
    kinds = [type(node) for _, node in nnx.iter_graph(model)]
    function, params = dx.nnx_function(model, X)
    for run in (function, jax.jit(function), jax.grad(lambda p: function(p).sum())):
        run(params)
    after = nnx.to_pure_dict(nnx.state(model))
    jax.tree.map(np.testing.assert_array_equal, after, before)
    assert [type(node) for _, node in nnx.iter_graph(model)] == kinds
    assert model.norm.use_running_average == (switch == "eval")
    assert model.dropout.rate == 0.5


def test_the_paths_of_nnx_are_those_of_the_state():
    from flax import nnx

    model = nnx_net(use_running_average=False, deterministic=False)
    function, params = dx.nnx_function(model, X)
    mask = dx.masks.by_path([("body/kernel", True)], default=False)
    assert isinstance(params, nnx.State)
    assert jax.tree.structure(params) == jax.tree.structure(nnx.state(model, nnx.Param))
    assert [row.path for row in dx.masks.describe(mask, params).rows] == [
        *("body/bias", "body/kernel", "head/bias", "head/kernel"),
        *("norm/bias", "norm/scale"),
    ]
    # The arrays without their boxes, as in an update.
    plain = nnx.state(model, nnx.Param)
    plain = jax.tree.map(
        lambda v: v[...], plain, is_leaf=lambda v: isinstance(v, nnx.Variable)
    )
    np.testing.assert_array_equal(function(plain), function(params))


def test_nnx_attention_and_custom_modules():
    from flax import nnx

    class OwnNorm(nnx.BatchNorm):
        def __call__(self, x):
            return super().__call__(x)

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.attention = nnx.MultiHeadAttention(
                2, 4, dropout_rate=0.9, decode=False, rngs=rngs
            )
            self.blocks = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
            self.norm = OwnNorm(4, use_running_average=True, epsilon=1e-9, rngs=rngs)
            self.streams = nnx.Dropout(0.5, rngs=rngs)
            self.calls = nnx.Variable(jnp.zeros(()))
            self.deterministic = False

        def __call__(self, x, rngs, *, gain):
            self.calls[...] += 1.0
            assert self.deterministic
            y = self.attention(x[None], deterministic=False, rngs=rngs)[0]
            y = self.blocks[1](jax.nn.relu(self.blocks[0](y)))
            return gain * self.streams(self.norm(y), deterministic=False, rngs=rngs)

    rngs = nnx.Rngs(1)
    function, params = dx.nnx_function(Net(nnx.Rngs(0)), X, rngs, gain=2.0)
    assert_invariant(function, params, "blocks/1/kernel", seen="norm/scale")
    assert int(rngs.default.count[...]) == 0


def test_nnx_attention_is_without_dropout():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rate):
            self.attention = nnx.MultiHeadAttention(
                2, 4, dropout_rate=rate, decode=False, rngs=nnx.Rngs(0)
            )

        def __call__(self, x):
            return self.attention(x[None], deterministic=False, rngs=nnx.Rngs(1))

    dropped, plain = (dx.nnx_function(Net(rate), X) for rate in (0.9, 0.0))
    np.testing.assert_array_equal(dropped[0](dropped[1]), plain[0](plain[1]))


def test_a_later_change_of_an_nnx_module_does_not_matter():
    model = nnx_net(use_running_average=False, deterministic=False)
    function, params = dx.nnx_function(model, X)
    before = function(params)
    model.body.kernel[...] = jnp.zeros((4, 8))
    np.testing.assert_array_equal(function(params), before)


@pytest.mark.slow
def test_nnx_layers_in_a_scan():
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 4, rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)

        def __call__(self, x):
            return jax.nn.relu(self.norm(self.linear(x), use_running_average=True))

    class Net(nnx.Module):
        def __init__(self, rngs):
            make = nnx.split_rngs(splits=3)(nnx.vmap(Block))
            self.blocks = make(rngs)

        def __call__(self, x):
            scan = nnx.scan(
                lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry
            )
            return scan(x, self.blocks)

    function, params = dx.nnx_function(Net(nnx.Rngs(0)), X)
    assert_invariant(function, params, "blocks/linear/kernel", seen="blocks/norm/scale")


# --- Linen ------------------------------------------------------------------------


def linen_net(attributes=True, setup=False, running=True, wrap=None):
    from flax import linen as nn

    flags = {"use_running_average": running}
    of_class, of_call = (flags, {}) if attributes else ({}, flags)
    drops = {"deterministic": False}
    of_drop, of_drop_call = (drops, {}) if attributes else ({}, drops)
    wrap = wrap or (lambda kind: kind)

    class InSetup(nn.Module):
        def setup(self):
            self.body, self.norm = nn.Dense(8), nn.BatchNorm(**of_class)
            self.drop, self.head = nn.Dropout(0.5, **of_drop), nn.Dense(3)

        def __call__(self, x):
            x = jax.nn.relu(self.norm(self.body(x), **of_call))
            return self.head(self.drop(x, **of_drop_call))

    class Compact(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(8, name="body")(x)
            x = jax.nn.relu(wrap(nn.BatchNorm)(name="norm", **of_class)(x, **of_call))
            x = nn.Dropout(0.5, **of_drop)(x, **of_drop_call)
            return nn.Dense(3, name="head")(x)

    return InSetup() if setup else Compact()


def initialized(model, *args, **kwargs):
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return model.init(keys, *args, **kwargs)


@pytest.mark.parametrize("attributes", [False, True])
@pytest.mark.parametrize("setup", [False, True])
@pytest.mark.parametrize("running", [False, True])
def test_linen_modes(attributes, setup, running):
    model = linen_net(attributes, setup, running)
    variables = initialized(model, X)
    before = jax.tree.map(np.array, variables)
    function, params = dx.linen_function(model, variables, X)
    assert params is variables["params"]
    assert_invariant(function, params, "body/kernel", seen="head/kernel")
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    body, norm, head = params["body"], params["norm"], params["head"]
    y = X @ body["kernel"] + body["bias"]
    y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5) * norm["scale"] + norm["bias"]
    y = np.maximum(y, 0) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(function(params), y, atol=1e-4)


def test_linen_needs_no_running_means():
    model = linen_net()
    params = initialized(model, X)["params"]
    function, _ = dx.linen_function(model, {"params": params}, X)
    assert_invariant(function, params, "body/kernel")


def test_linen_inside_lifted_transforms():
    from flax import linen as nn

    model = linen_net(wrap=nn.remat)
    function, params = dx.linen_function(model, initialized(model, X), X)
    assert_invariant(function, params, "body/kernel")

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            x = nn.BatchNorm(use_running_average=True)(nn.Dense(4)(x))
            return nn.Dropout(0.5, deterministic=False)(jax.nn.relu(x)), None

    blocks = nn.scan(
        Block,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True, "dropout": True},
        length=3,
    )()
    variables = initialized(blocks, X, None)
    function, params = dx.linen_function(blocks, variables, X, None)
    assert_invariant(lambda p: function(p)[0], params, "Dense_0/kernel")


@pytest.mark.slow
def test_linen_attention_own_dropout_and_arguments():
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train, gain=1.0):
            y = nn.MultiHeadDotProductAttention(2, dropout_rate=0.9)(
                x[None], deterministic=not train
            )[0]
            attention = nn.MultiHeadDotProductAttention(
                2, dropout_rate=0.9, deterministic=False
            )
            y = attention(y[None])[0]
            y = nn.Dense(4)(y)
            y = nn.BatchNorm(epsilon=1e-9)(y, use_running_average=not train)
            y = nn.Dropout(rate=1.0)(inputs=y, deterministic=False)
            keep = jax.random.bernoulli(self.make_rng("dropout"), 0.9, y.shape)
            self.sow("intermediates", "y", y)
            return gain * keep * y

        def twice(self, x):
            return 2.0 * self(x, train=True)

    model = Net()
    variables = initialized(model, X, train=True)
    for train in (False, True):
        function, params = dx.linen_function(model, variables, X, train=train, gain=3.0)
        assert_invariant(function, params, "Dense_0/kernel", seen="BatchNorm_0/scale")
    assert np.mean(function(params) == 0) == pytest.approx(0.1, abs=0.09)
    twice, _ = dx.linen_function(model, variables, X, method=Net.twice)
    np.testing.assert_allclose(1.5 * twice(params), function(params), rtol=1e-5)
    # The attributes of modules that the user holds are as before.
    norm = nn.BatchNorm(use_running_average=True)
    variables = norm.init(jax.random.key(0), X)
    function, params = dx.linen_function(norm, variables, X)
    np.testing.assert_allclose(np.mean(function(params), axis=0), 0.0, atol=1e-6)
    assert norm.use_running_average is True


def test_linen_attention_is_without_dropout():
    from flax import linen as nn

    def outputs(rate, module_flag):
        flag = {"deterministic": False}
        of_class, of_call = (flag, {}) if module_flag else ({}, flag)
        model = nn.MultiHeadDotProductAttention(2, dropout_rate=rate, **of_class)
        variables = initialized(model, X[None], **of_call)
        function, params = dx.linen_function(model, variables, X[None], **of_call)
        assert model.dropout_rate == rate
        return function(params)

    for module_flag in (False, True):
        np.testing.assert_array_equal(
            *(outputs(rate, module_flag) for rate in (0.9, 0))
        )


def test_linen_says_which_parameter_is_missing():
    """Parameters are not mutable: a missing one is an error, and is not made again."""
    from flax import errors

    model = linen_net()
    variables = initialized(model, X)
    function, params = dx.linen_function(model, variables, X)
    with pytest.raises(errors.ScopeParamNotFoundError, match="bias"):
        function(params | {"head": {"kernel": params["head"]["kernel"]}})


def test_the_modules_that_a_linen_module_holds_are_as_before():
    from flax import linen as nn

    class Net(nn.Module):
        norm: nn.Module

        @nn.compact
        def __call__(self, x):
            y = self.norm(nn.Dense(4, name="body")(x))
            assert self.norm.use_running_average is True  # outside of its call
            return y

    norm = nn.BatchNorm(use_running_average=True, epsilon=1e-9)
    model = Net(norm)
    variables = initialized(model, X)
    function, params = dx.linen_function(model, variables, X)
    assert_invariant(function, params, "body/kernel")
    assert norm.use_running_average is True


def test_linen_boxes_and_outputs():
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.with_partitioning(nn.initializers.ones, ("in", "out"))
            y = nn.Dense(3, kernel_init=init)(x)
            return {"y": y, "count": (7, np.arange(3), None), "name": "net"}

    model = Net()
    variables = initialized(model, X)
    function, params = dx.linen_function(model, variables, X)
    outputs = function(params)
    assert outputs["name"] == "net"
    assert outputs["count"][0] == 7
    assert outputs["count"][2] is None
    assert outputs["y"].shape == (16, 3)


# --- Equinox ----------------------------------------------------------------------


def equinox_net(mode, inference):
    import equinox as eqx

    class Net(eqx.Module):
        body: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        drop: eqx.nn.Dropout
        head: eqx.nn.Linear
        inner: bool = eqx.field(static=True)

        def __init__(self, inner):
            keys = jax.random.split(jax.random.key(0))
            self.body = eqx.nn.Linear(4, 8, key=keys[0])
            self.norm = eqx.nn.BatchNorm(8, "batch", mode=mode, inference=inference)
            self.drop = eqx.nn.Dropout(0.5, inference=inference)
            self.head = eqx.nn.Linear(8, 3, key=keys[1])
            self.inner = inner

        def __call__(self, x, state):
            x, state = self.norm(self.body(x), state)
            flag = False if self.inner else None  # against the module's own
            return self.head(self.drop(jax.nn.relu(x), inference=flag)), state

    return eqx.nn.make_with_state(Net)(inner=inference)


def in_batch(model, x, state):
    mapped = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    return mapped(x, state)


@pytest.mark.parametrize("mode", ["ema", "batch"])
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_equinox_modes(mode, inference, trained):
    import equinox as eqx

    model, state = equinox_net(mode, inference)
    if trained:  # running means of another batch
        training = eqx.nn.inference_mode(model, value=False)
        training = eqx.tree_at(lambda m: m.drop.p, training, 0.0)
        _, state = in_batch(training, 5.0 + X, state)
    function, params = dx.equinox_function(model, X, state, call=in_batch)
    outputs, nothing = function(params)
    assert nothing is None
    assert_invariant(lambda p: function(p)[0], params, "body/weight", "head/weight")
    body, norm, head = model.body, model.norm, model.head
    y = X @ body.weight.T + body.bias
    y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5) * norm.weight + norm.bias
    y = np.maximum(y, 0) @ head.weight.T + head.bias
    np.testing.assert_allclose(outputs, y, atol=1e-4)
    # The model is not changed.
    assert (model.norm.inference, model.drop.inference) == (inference, inference)
    assert (model.norm.momentum, model.drop.p) == (0.99, 0.5)
    same = jax.tree.map(
        lambda a, b: a is b, params, eqx.filter(model, eqx.is_inexact_array)
    )
    assert all(jax.tree.leaves(same))


def test_equinox_attention_keys_and_states():
    import equinox as eqx

    class Net(eqx.Module):
        attention: eqx.nn.MultiheadAttention
        norm: eqx.nn.BatchNorm
        counter: eqx.nn.StateIndex

        def __init__(self, key):
            self.attention = eqx.nn.MultiheadAttention(2, 4, dropout_p=0.9, key=key)
            self.norm = eqx.nn.BatchNorm(4, "batch", eps=1e-9, mode="batch")
            self.counter = eqx.nn.StateIndex(jnp.array(0))

        def __call__(self, x, state, *, key, gain):
            state = state.set(self.counter, state.get(self.counter) + 1)
            x = self.attention(x, x, x, key=key)
            norm = jax.vmap(
                self.norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None)
            )
            x, state = norm(x, state)
            return {"y": gain * x, "count": (3, state), "name": "net"}

    model, state = eqx.nn.make_with_state(Net)(jax.random.key(0))
    # Without `call`; the state is used again in each call.
    function, params = dx.equinox_function(
        model, X, state, key=jax.random.key(1), gain=2.0
    )
    outputs = function(params)
    assert outputs["count"] == (3, None)
    assert outputs["name"] == "net"
    path = "attention/output_proj/weight"
    assert_invariant(lambda p: function(p)["y"], params, path, "norm/weight")


def test_equinox_modules_with_a_flag_of_their_own():
    import equinox as eqx

    class DropPath(eqx.Module):
        inference: bool = False

        def __call__(self, x):
            return x if self.inference else 0.0 * x

    class Net(eqx.Module):
        linear: eqx.nn.Linear
        drop: DropPath

        def __call__(self, x):
            return self.drop(jax.vmap(self.linear)(x))

    model = Net(modules()["equinox_function"], DropPath())
    function, params = dx.equinox_function(model, X)
    assert float(jnp.max(jnp.abs(function(params)))) > 0.1


def test_equinox_state_must_be_outside_of_the_model():
    import equinox as eqx

    class Net(eqx.Module):
        norm: eqx.nn.BatchNorm

        def __init__(self):
            self.norm = eqx.nn.BatchNorm(4, "batch", mode="batch")

    with pytest.raises(TypeError, match="^equinox_function: .*make_with_state"):
        dx.equinox_function(Net(), X)


# --- wrong objects ----------------------------------------------------------------


NAMES = "nnx_function", "linen_function", "equinox_function"


def modules():
    import equinox as eqx
    from flax import linen, nnx

    return {
        "nnx_function": nnx.Linear(4, 3, rngs=nnx.Rngs(0)),
        "linen_function": linen.Dense(3),
        "equinox_function": eqx.nn.Linear(4, 3, key=jax.random.key(0)),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_module_of_another_framework(name):
    for other, module in modules().items():
        if other != name:
            match = f"^{name}: it must get an instance of .*Call dx.{other}\\."
            with pytest.raises(TypeError, match=match):
                getattr(dx, name)(module, X)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_a_module(name):
    kind = type(modules()[name])
    match = f"^{name}: .*got the class {kind.__name__}. Pass {kind.__name__}\\(...\\)"
    with pytest.raises(TypeError, match=match):
        getattr(dx, name)(kind, X)
    for wrong in (lambda params: params, {"kernel": X}, None):
        with pytest.raises(TypeError, match=f"^{name}: .*pass a function of the param"):
            getattr(dx, name)(wrong, X)


def test_linen_needs_variables():
    from flax import linen

    model = linen.Dense(3)
    variables = model.init(jax.random.key(0), X)
    for wrong in (X, variables["params"], None, {}):
        with pytest.raises(
            TypeError, match="^linen_function: variables must be a dict"
        ):
            dx.linen_function(model, wrong, X)
    with pytest.raises(TypeError, match="^equinox_function: call must be a function"):
        dx.equinox_function(modules()["equinox_function"], X, call=X)


def test_no_framework_is_imported():
    script = (
        "import sys, decayax as dx\n"
        "try: dx.nnx_function(1)\n"
        "except TypeError as error: assert 'flax.nnx.Module' in str(error)\n"
        "sys.exit(bool({'flax', 'equinox'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
