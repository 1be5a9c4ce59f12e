"""What the package says about itself: one version, one address, links that work."""

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
