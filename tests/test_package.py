"""What the package says about itself: one version, one address, links that work."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import decayax as dx


pytestmark = pytest.mark.needs_checkout
ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text(name: str) -> str:
    return (ROOT / name).read_text()


PROJECT = tomllib.loads(text("pyproject.toml")) if (ROOT / "README.md").exists() else {}


def test_the_version_is_the_same_everywhere():
    """In the package, in the citation and in the newest released part of the log."""
    cited = re.search(
        r"^version: (.+)\ndate-released: (.+)$", text("CITATION.cff"), re.M
    )
    logged = re.search(r"^## \[(\d.*)\] - (.+)$", text("CHANGELOG.md"), re.M)
    assert cited.groups() == logged.groups()
    assert cited[1] == dx.__version__


# --- what breaks ------------------------------------------------------------------


def parameters(line: str) -> tuple[str, dict[str, tuple[str, ...]]]:
    """A signature: the name, and for each parameter its position and its default."""
    name, _, rest = line.partition("(")
    own = ast.parse(f"def f({rest}: pass" if rest else "def f(): pass").body[0].args
    first = [*own.posonlyargs, *own.args]
    defaults = [None] * (len(first) - len(own.defaults)) + own.defaults
    found = {
        a.arg: (str(n), ast.dump(d) if d else "")
        for n, (a, d) in enumerate(zip(first, defaults, strict=True))
    }
    for a, d in zip(own.kwonlyargs, own.kw_defaults, strict=True):
        found[a.arg] = ("keyword", ast.dump(d) if d else "")
    return name, found


def still_works(old: dict, new: dict) -> bool:
    """Whether each call with the old parameters means the same with the new ones."""
    return old.items() <= new.items() and all(new[name][1] for name in new.keys() - old)


def test_the_log_names_what_breaks():
    """Every public name of 0.1 that is gone, or that takes other arguments."""
    section = text("CHANGELOG.md").split("### What breaks, and how to mend it")[1]
    section = section.split("\n### ")[0]
    data = ROOT / "tests" / "data"
    old = map(parameters, (data / "signatures_0.1.txt").read_text().splitlines())
    new = dict(map(parameters, (data / "signatures.txt").read_text().splitlines()))
    broken = {
        name
        for name, arguments in old
        if name not in new or not still_works(arguments, new[name])
    }
    assert {"with_decay", "rates.kept_share", "DecayState"} <= broken
    assert {name for name in broken if name not in section} == set()


# --- addresses --------------------------------------------------------------------


def test_the_repository_is_the_same_everywhere():
    urls = PROJECT["project"]["urls"]
    own = re.compile(r"https://(?:raw\.githubusercontent|github)\.com/(decayax/\w+)")
    names = [name for name in ("mkdocs.yml", "README.md") if (ROOT / name).exists()]
    found = set()
    for name in ("pyproject.toml", "CITATION.cff", *names):
        found |= set(own.findall(text(name)))
    assert [f"https://github.com/{name}" for name in found] == [urls["Repository"]]


def on_pypi(readme: str) -> str:
    """As hatch-fancy-pypi-readme does it when it builds."""
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for each in hook["substitutions"]:
        readme = re.sub(each["pattern"], each["replacement"], readme)
    return readme.replace("$HFPR_VERSION", dx.__version__)


def test_links_of_the_readme_are_absolute_on_pypi():
    before, after = (
        LINK.findall(text("README.md")),
        LINK.findall(on_pypi(text("README.md"))),
    )
    assert len(before) == len(after)
    assert any(not link.startswith("http") for link in before)
    for old, new in zip(before, after, strict=True):
        if not old.startswith(("http", "#")):
            assert new.startswith("https://")
            assert new.endswith(f"/v{dx.__version__}/{old}")
            assert (ROOT / old.partition("#")[0]).exists()
        else:
            assert new == old


def test_pictures_and_pages_have_different_addresses():
    told = on_pypi(
        "![a](b/c.png) [d](e.md#f) [g](#h) [i](https://j.org) ![k](http://l)"
    )
    version = f"decayax/decayax/v{dx.__version__}"
    assert told == (
        f"![a](https://raw.githubusercontent.com/{version}/b/c.png) "
        f"[d](https://github.com/{version.replace('/v', '/blob/v')}/e.md#f) "
        "[g](#h) [i](https://j.org) ![k](http://l)"
    )


def test_the_wheel_has_no_extras_but_the_checkout_has_groups():
    assert "optional-dependencies" not in PROJECT["project"]
    groups = PROJECT["dependency-groups"]
    assert {"experiments", "cluster", "tests", "dev"} <= set(groups)


def test_what_the_groups_install_has_a_fixed_version():
    names = re.findall(r"^([\w.-]+)==", text("constraints.txt"), re.M)
    pinned = {name.lower().replace("_", "-") for name in names}
    for packages in PROJECT["dependency-groups"].values():
        for each in packages:
            if isinstance(each, str):
                assert re.split(r"[\[<>=]", each)[0].lower() in pinned, each
