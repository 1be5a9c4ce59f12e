"""Files of the repository as pages of the site, and their links.

A page is written for a reader of the repository: its links are relative paths there.
The README, the changelog, the reports of the studies and the executed notebooks stay
where they are, and become pages of the site here. A link to a file that is not a page
leads to the repository.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File


ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "experiments/README.md": "evidence/engine.md",
    "experiments/leaderboard/RULES.md": "evidence/leaderboard_rules.md",
}
FOLDERS = {  # in the repository -> on the site
    "experiments/results/": "evidence/",
    ".venv/notebooks/": "notebooks/",
    "docs/": "",
}
FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
ENTRY = re.compile(r"^:{3} decayax\.(\S+)$", re.MULTILINE)
NAME = re.compile(r"`((?:\w+\.)?\w+)(\([^`]*\))?`")
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")


def site_path(path: str) -> str:
    """Where a file of the repository is on the site, or "" if it is not there."""
    if path in PAGES:
        return PAGES[path]
    for folder, target in FOLDERS.items():
        if path.startswith(folder) and path.endswith((".md", ".png")):
            return target + path.removeprefix(folder)
    return ""


def outside() -> list[str]:
    """The pages and figures that are not in `docs/`."""
    folders = [folder for folder in FOLDERS if folder != "docs/"]
    found = [file for folder in folders for file in (ROOT / folder).rglob("*")]
    paths = [file.relative_to(ROOT).as_posix() for file in found if file.is_file()]
    return [*PAGES, *filter(site_path, paths)]


def rewritten(text: str, source: str, page: str, repository: str) -> str:
    """The text of a file of the repository, with links for its page of the site."""

    def link(match: re.Match) -> str:
        path, anchor = match[1], match[2] or ""
        if ":" in path:
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if there := site_path(target):
            return posixpath.relpath(there, posixpath.dirname(page) or ".") + anchor
        kind = "tree" if (ROOT / target).is_dir() else "blob"
        return f"{repository}/{kind}/main/{target}{anchor}"

    parts = FENCE.split(text)  # every second part is a code block
    return "".join(
        part if i % 2 else LINK.sub(link, part) for i, part in enumerate(parts)
    )


def public_names() -> set[str]:
    """The names that the reference describes."""
    folder = ROOT / "docs" / "reference"
    return {
        name for file in folder.glob("*.md") for name in ENTRY.findall(file.read_text())
    }


def with_references(text: str) -> str:
    """Tables whose first column links to the reference of the names in it."""
    known = public_names()

    def link(match: re.Match) -> str:
        return f"[{match[0]}][decayax.{match[1]}]" if match[1] in known else match[0]

    def row(line: str) -> str:
        if not line.startswith("| `"):
            return line
        first, bar, rest = line.partition(" | ")
        return NAME.sub(link, first) + bar + rest

    return "\n".join(map(row, text.split("\n")))


def on_config(config):
    """List the report of each study below "Evidence"; its title is its question."""
    (evidence,) = (entry["Evidence"] for entry in config.nav if "Evidence" in entry)
    evidence += sorted(
        site_path(path)
        for path in outside()
        if path.count("/") == 3 and "results" in path and path.endswith(".md")
    )
    return config


def on_files(files, config):
    """Add the pages and figures that are not in `docs/`."""
    for path in outside():
        page = File.generated(config, site_path(path), abs_src_path=str(ROOT / path))
        files.append(page)
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite the links of a page."""
    source = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
    source = source.replace(".venv/notebooks/", "docs/notebooks/")  # that of the script
    uri = page.file.src_uri
    if not uri.startswith("evidence/"):
        markdown = with_references(markdown)
    return rewritten(markdown, source, uri, config.repo_url.rstrip("/"))
