"""Run the notebooks, and write each as Markdown and as .ipynb, with its outputs.

    python docs/notebooks/build.py build/notebooks               # all of them
    python docs/notebooks/build.py build/notebooks bf16_decay    # one

The scripts are the source (jupytext, py:percent); the folder holds what is made.
"""

import argparse
import base64
import tempfile
from pathlib import Path

import jupytext
import nbclient
import nbformat
from tqdm import tqdm


NOTEBOOKS = Path(__file__).parent
SECONDS = 300  # for one cell


def sources() -> dict[str, Path]:
    """The notebooks by name."""
    return {path.stem: path for path in sorted(NOTEBOOKS.glob("*.py")) if is_one(path)}


def is_one(path: Path) -> bool:
    return path.read_text().startswith("# %% [markdown]\n")


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of its cells. A cell that fails raises."""
    notebook = jupytext.read(path)
    client = nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3")
    with tempfile.TemporaryDirectory() as folder:
        kernel = client.create_kernel_manager()
        kernel.transport, kernel.ip = "ipc", f"{folder}/kernel"  # files, and no ports
        client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the times of this run
    return notebook


def markdown(notebook: nbformat.NotebookNode, name: str, folder: Path) -> str:
    """The page. Its figures become files in the folder."""
    blocks, figures = [], 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            blocks.append(cell.source)
            continue
        blocks.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                figures += 1
                file = f"{name}-{figures}.png"
                png = base64.b64decode(output.data["image/png"])
                folder.joinpath(file).write_bytes(png)
                blocks.append(f"![{cell.metadata.get('alt', name)}]({file})")
            else:
                blocks.append(f"```text\n{text_of(output).rstrip()}\n```")
    return "\n\n".join(blocks) + "\n"


def text_of(output: nbformat.NotebookNode) -> str:
    """What a cell printed. A page shows no warnings: they are errors here."""
    if output.output_type == "stream" and output.name == "stdout":
        return output.text
    raise ValueError(
        f"a cell wrote {output.output_type} {output.get('name', '')}: "
        f"{output.get('text', output.get('data'))}. Print what the page shall show."
    )


def build(name: str, folder: Path) -> None:
    """Write NAME.md, NAME.ipynb and the figures to the folder."""
    notebook = executed(sources()[name])
    page = markdown(notebook, name, folder)
    folder.joinpath(f"{name}.md").write_text(page)
    nbformat.write(notebook, folder / f"{name}.ipynb")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the notebooks.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="name", default=list(sources()))
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(sources()):
        parser.error(f"no notebook {', '.join(unknown)}; there are {list(sources())}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in (bar := tqdm(arguments.names, disable=None)):
        bar.set_description(name)
        build(name, arguments.folder)


if __name__ == "__main__":
    main()
