"""The code that a cell's numbers come from: every module that can be reached."""

import functools
import hashlib
import importlib
import re
import sys
import types

import pytest


pytestmark = pytest.mark.needs_extras


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write modules of a package `ours`; import one of them."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("ours", "lonely"):
            monkeypatch.delitem(sys.modules, name)

    def write(name, text):
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()
        return path

    write("ours.__init__", "")
    yield write
    for name in list(sys.modules):
        if name.partition(".")[0] in ("ours", "lonely"):
            del sys.modules[name]


def code_hashes(*values, study="ours.study"):
    """Of the values and of a function of the study's own module."""
    from experiments.engine.code import code_hashes as of

    def own():
        pass

    own.__module__ = study
    return of([*values, own], study, {})


def ours(code):
    return {name for name in code if name.partition(".")[0] in ("ours", "lonely")}


def test_every_import_is_followed_and_nothing_is_run(package):
    package("ours.study", "from ours import chains")
    package("ours.chains", "import functools\nfrom .deep import a\ndef chain(): pass")
    package(
        "ours.deep", "def a():\n    import ours.lazy as b\n    from lonely import c"
    )
    package("ours.lazy", "raise RuntimeError('imported')")
    package("lonely", "import not_installed_at_all\nimport numpy, jax.numpy, json")
    package("ours.unused", "")
    chain = importlib.import_module("ours.chains").chain
    code = code_hashes(chain)
    names = {f"ours.{name}" for name in ("study", "chains", "deep", "lazy")}
    assert ours(code) == {"ours", "lonely", *names}
    assert "ours.lazy" not in sys.modules
    tops = {name.partition(".")[0] for name in code}
    assert tops == {"ours", "lonely", "experiments"}
    assert "experiments.engine.program" in code
    assert list(code) == sorted(code)


def test_the_packages_of_a_module_are_code_too(package):
    package("ours.chains", "import ours.inner.deep\ndef chain(): pass")
    package("ours.inner.__init__", "")
    package("ours.inner.deep", "")
    chain = importlib.import_module("ours.chains").chain
    names = {"ours.chains", "ours.inner", "ours.inner.deep"}
    assert ours(code_hashes(chain)) == {"ours", *names}


PROGRAM = '''
"""A module."""
import functools
from math import sqrt as root
RATE, NAMES = 0.5, {"a": 1, **{}}

@functools.cache
def chain(x, factor=2, *, shift=None):
    """A function."""
    y = x * factor + RATE
    return -y if y > 1 else f"{y:.3f}"

class Setup:
    """A class."""
    size: int = 100

    def load(self): return root(self.size)
'''


@pytest.fixture
def hash_of(package):
    """The hash of a module with this text, whose file alone changes."""
    package("ours.study", "")
    path = package("ours.chains", PROGRAM)
    chain = importlib.import_module("ours.chains").chain
    first = code_hashes(chain)

    def hash_of(text):
        path.write_text(text)
        found = code_hashes(chain)
        assert {n for n in first if first[n] != found[n]} <= {"ours.chains"}
        assert re.fullmatch("[0-9a-f]{12}", found["ours.chains"])
        return found["ours.chains"]

    return hash_of


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""Another."""'),
        ('"""A module."""\n', ""),
        ('"""A function."""', '"""Another,\n\n    with more lines."""'),
        ('    """A function."""\n', ""),
        ('"""A class."""', "'A class, reworded.'"),
        ("size: int = 100", 'size: int = 100\n    "Of the data."'),
        ("RATE, NAMES = ", "# A comment.\nRATE, NAMES = "),
        ("factor + RATE", "factor + RATE  # x"),
        ("x * factor + RATE", "(x*factor\n      + RATE)"),
        ("def load(self): return", "def load(self):\n        return"),
        ('{"a": 1, **{}}', "{'a': 1, **{},}"),
        ("size: int = 100", "size: int = 0x64"),
        ("RATE, NAMES", "(RATE, NAMES)"),
    ],
)
def test_docstrings_comments_and_formatting_do_not_change_a_hash(old, new, hash_of):
    assert PROGRAM.count(old) == 1
    assert hash_of(PROGRAM.replace(old, new)) == hash_of(PROGRAM)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE, NAMES = 0.5", "RATE, NAMES = 0.25"),
        ("size: int = 100", "size: int = 100.0"),
        ("size: int = 100", "size: int = True"),
        ("x * factor", "x + factor"),
        ("x * factor + RATE", "x * (factor + RATE)"),
        ("y > 1", "y >= 1"),
        ("-y if", "+y if"),
        ("factor=2", "factor=3"),
        ("shift=None", "shift=0"),
        ("shift=None", "shift"),
        (", *, shift", ", shift"),
        ("@functools.cache\n", ""),
        ("@functools.cache", "@functools.lru_cache"),
        ("import functools\n", "import functools, math\n"),
        ("sqrt as root", "cbrt as root"),
        ('{"a": 1', '{"b": 1'),
        ("**{}", "**{'c': 2}"),
        (":.3f", ":.4f"),
        ("{y:.3f}", "{y!r:.3f}"),
        ("size: int", "size: float"),
        ("def chain", "async def chain"),
        ("class Setup:", "class Setup(dict):"),
    ],
)
def test_everything_else_changes_a_hash(old, new, hash_of):
    assert PROGRAM.count(old) == 1
    assert hash_of(PROGRAM.replace(old, new)) != hash_of(PROGRAM)


def test_a_file_that_is_not_python_is_hashed_by_its_bytes(package, tmp_path):
    """An extension module, say: it is a file next to the package's modules."""
    package("ours.study", "")
    package("ours.chains", "def chain(): import ours.native")
    chain = importlib.import_module("ours.chains").chain
    path = tmp_path / "ours" / "native.so"
    path.write_bytes(b"\0 # 1")
    native = types.ModuleType("ours.native")
    native.__file__ = str(path)
    sys.modules["ours.native"] = native  # the fixture removes it
    before = code_hashes(chain)["ours.native"]
    assert before == hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    path.write_bytes(b"\0 # 2")
    assert code_hashes(chain)["ours.native"] != before


@pytest.mark.parametrize("place", ["partial", "argument", "field", "tuple", "class"])
def test_functions_are_found_wherever_a_value_holds_them(place, package):
    package("ours.study", "")
    package(
        "ours.recipes",
        "import dataclasses\n@dataclasses.dataclass\nclass R:\n    x: object = 1\n"
        "def f(): pass",
    )
    module, here = importlib.import_module("ours.recipes"), types.SimpleNamespace
    value = {
        "partial": functools.partial(module.f, 1),
        "argument": functools.partial(here, a=(module.f,)),
        "field": {"model": [module.f]},
        "tuple": (None, 1, "text", (module.f,)),
        "class": module.R(),
    }[place]
    assert ours(code_hashes(value)) == {"ours", "ours.study", "ours.recipes"}
    assert ours(code_hashes(None)) == {"ours", "ours.study"}


def test_display_code_is_not_hashed_unless_it_holds_the_chain(package):
    package(
        "ours.study", "import ours.figures, experiments.cli, experiments.reports.demo"
    )
    path = package("ours.figures", "import matplotlib.pyplot, ours.colours")
    package("ours.colours", "")
    code = code_hashes()
    assert ours(code) == {"ours", "ours.study"}
    hidden = ("experiments.cli", "experiments.reports", "experiments.engine.store")
    assert not [name for name in code if name.startswith(hidden)]
    path.write_text(f"{path.read_text()}\ndef chain(): pass")
    chain = importlib.import_module("ours.figures").chain
    assert ours(code_hashes(chain)) == {
        "ours",
        "ours.study",
        "ours.figures",
        "ours.colours",
    }


def test_the_module_of_the_study_counts_only_if_it_holds_a_function(package):
    from experiments.engine.code import code_hashes as of

    package("ours.study", "RATES = (1, 2)")
    package("ours.chains", "def chain(): pass")
    chain = importlib.import_module("ours.chains").chain
    assert ours(of([chain], "ours.study", {})) == {"ours", "ours.chains"}
    # So a grid may grow where the chains lie elsewhere.
    package("ours.study", "RATES = (1, 2, 4)")
    assert ours(of([chain], "ours.study", {})) == {"ours", "ours.chains"}


PLANS = """
A = 1
FULL = dict(
    rates=(1, 2),
)
B = 2
SMOKE: dict = {}
"""


def test_the_numbers_of_a_plan_are_not_code(package):
    path = package("ours.study", PLANS)
    before = code_hashes()
    path.write_text(
        PLANS.replace("(1, 2),", "(1, 2,\n\n 3, 4),").replace("{}", "{1: 2}")
    )
    assert code_hashes() == before
    path.write_text(PLANS.replace("B = 2", "B = 3"))
    assert code_hashes()["ours.study"] != before["ours.study"]
    package("ours.other", "")
    assert code_hashes(study="ours.other") != code_hashes()
    # In another module these names mean something else.
    path.write_text("from ours.other import FULL")
    package("ours.other", "FULL = 1")
    before = code_hashes()
    package("ours.other", "FULL = 2")
    assert code_hashes()["ours.other"] != before["ours.other"]


@pytest.mark.parametrize(
    ("targets", "is_code"),
    [
        ("FULL, SMOKE", False),
        ("(SMOKE, FULL)", False),
        ("FULL = SMOKE", False),
        ("FULL, RATE", True),  # a chain may use the rate
        ("FULL = RATE", True),
        ("FULL, (SMOKE, RATE)", True),
        ("FULL, table[0]", True),
        ("FULL, *RATES", True),
    ],
)
def test_plans_that_are_assigned_together(targets, is_code, package):
    path = package("ours.study", f"A = 1\n{targets} = 1, 2\nB = 2\n")
    before = code_hashes()
    path.write_text(f"A = 1\n{targets} = 1, 3\nB = 2\n")
    assert (code_hashes() != before) == is_code


def test_a_plan_hides_no_other_statement_of_its_line(package):
    path = package("ours.study", "FULL = 1; RATE = 2\n")
    before = code_hashes()
    path.write_text("FULL = 2; RATE = 2\n")
    assert code_hashes() == before
    path.write_text("FULL = 1; RATE = 3\n")
    assert code_hashes() != before
    path.write_text("RATE = 2\n")
    assert code_hashes() == before


def test_a_plan_inside_a_function_is_code(package):
    path = package("ours.study", "def chain():\n    FULL = 1\n    return FULL\n")
    before = code_hashes()
    path.write_text("def chain():\n    FULL = 2\n    return FULL\n")
    assert code_hashes() != before


TYPED = """
import functools
from ours import chains
RATE = 0.5
def helper(x):
    return RATE * x
def chain(cell, factor=2):
    return chains.chain(helper(cell)) * factor
@functools.cache
def wrapped(): return helper
class TrainingSetup:
    def task(self): return helper(1)
def idle(): pass
"""


@pytest.fixture
def typed_in(package, monkeypatch):
    """The session of a notebook, after some text was typed in."""
    package("ours.study", "")
    package("ours.chains", "def chain(): pass")

    def run(text, file="<one>"):
        module = types.ModuleType("session")
        monkeypatch.setitem(sys.modules, "session", module)
        exec(compile(text, file, "exec"), module.__dict__)
        return module

    return run


def test_a_function_that_was_typed_in_is_known_by_its_code(typed_in):
    session = typed_in(TYPED)
    code = code_hashes(session.chain)
    assert {n for n in code if n.startswith("session")} == {
        *("session.chain", "session.helper")
    }
    assert "ours.chains" in code
    moved = typed_in(f"\n\n{TYPED}", "<two>")
    assert code_hashes(moved.chain) == code
    for value, name in (
        (session.wrapped, "session.wrapped"),
        (session.TrainingSetup(), "session.TrainingSetup"),
    ):
        found = code_hashes(type(value) if name.endswith("TrainingSetup") else value)
        assert {name, "session.helper"} <= set(found)


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("RATE * x", "RATE + x", "session.helper"),
        ("RATE = 0.5", "RATE = 0.25", "session.helper"),
        ("factor=2", "factor=3", "session.chain"),
        ("* factor", "* 2 * factor", "session.chain"),
        ("helper(cell)", "helper(helper(cell))", "session.chain"),
        ("def idle(): pass", "def idle(): return 1", None),
    ],
)
def test_a_function_that_was_typed_in_otherwise(old, new, changed, typed_in):
    before = code_hashes(typed_in(TYPED).chain)
    assert old in TYPED
    after = code_hashes(typed_in(TYPED.replace(old, new)).chain)
    assert {n for n in before if before[n] != after[n]} == ({changed} - {None})
    setup = [
        code_hashes(typed_in(text).TrainingSetup)
        for text in (TYPED, TYPED.replace(old, new))
    ]
    assert (setup[0] != setup[1]) == (changed == "session.helper")
