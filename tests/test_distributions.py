"""The wheel and the sdist that `make test-wheel` has built and installed."""

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest


pytestmark = pytest.mark.needs_checkout
if "DIST" not in os.environ:
    pytest.skip("make test-wheel builds the distributions", allow_module_level=True)

ROOT = Path(__file__).parent.parent
(WHEEL,) = Path(os.environ["DIST"]).glob("*.whl")
(SDIST,) = Path(os.environ["DIST"]).glob("*.tar.gz")
VERSION = SDIST.name.removeprefix("decayax-").removesuffix(".tar.gz")


def in_checkout(folder: str = ".") -> set[str]:
    command = ["git", "ls-files", folder]
    return set(subprocess.check_output(command, cwd=ROOT, text=True).splitlines())


def metadata() -> email.message.Message:
    with zipfile.ZipFile(WHEEL) as wheel:
        name = f"decayax-{VERSION}.dist-info/METADATA"
        return email.message_from_bytes(wheel.read(name))


def test_the_wheel_has_the_library_and_nothing_else():
    with zipfile.ZipFile(WHEEL) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        licenses = [name for name in wheel.namelist() if name.endswith("/LICENSE")]
    assert names == in_checkout("decayax")
    assert {"decayax/py.typed", "decayax/_budget/recipes.csv"} <= names
    assert len(licenses) == 1


def test_the_sdist_has_the_checkout():
    with tarfile.open(SDIST) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert in_checkout() - names <= in_checkout(".github") | in_checkout(".ci")
    assert names - in_checkout() == {"PKG-INFO"}


def test_the_metadata():
    info = metadata()
    assert info["Version"] == VERSION
    assert info["License-Expression"] == "Apache-2.0"
    assert info["Requires-Python"] == ">=3.11"
    assert info["Author"]
    assert info.get_all("Provides-Extra") is None
    urls = dict(url.split(", ") for url in info.get_all("Project-URL"))
    assert set(urls) == {
        *("Homepage", "Documentation", "Repository", "Changelog", "Issues")
    }


def test_links_in_the_description_are_absolute():
    text = metadata().get_payload()
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert any(f"/v{VERSION}/" in link for link in links)
    assert all(link.startswith(("https://", "#")) for link in links)


def test_the_command_runs_from_another_folder(tmp_path):
    (tmp_path / "ours.py").write_text(
        "import numpy\nparams = {'w': numpy.ones((2, 3))}"
    )
    mask = "decayax.masks:no_bias_or_norm"
    command = ["-m", "decayax", "describe", mask, "--params", "ours:params"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "w          (2, 3)" in ran.stdout
    where = "import decayax; print(decayax.__file__)"
    file = subprocess.check_output(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, text=True
    )
    assert Path(file).is_relative_to(sys.prefix)
