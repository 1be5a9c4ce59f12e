"""Docstrings have the roles of Sphinx, which editors know; here: Markdown."""

import re

import griffe


BLOCK = re.compile(r"^( *)\.\. math::(.*(?:\n\1 +\S.*)*)", re.MULTILINE)
INLINE = re.compile(r":math:`([^`]+)`")
ROLE = re.compile(r":(?:func|class):`([\w.]+)`")
MODULES = ("masks", "rates")


def module_of(path: str) -> str:
    """The public module of an object: `decayax.rates._scales.x` is in decayax.rates."""
    parts = path.split(".")
    return f"decayax.{parts[1]}" if parts[1] in MODULES else "decayax"


def to_markdown(text: str, module: str) -> str:
    """`:math:` and `.. math::` as dollars, `:func:` as a link to the reference."""

    def block(match: re.Match) -> str:
        formula = " ".join(match[2].split())
        return f"{match[1]}$$\n{match[1]}{formula}\n{match[1]}$$"

    def link(match: re.Match) -> str:
        name = match[1].removeprefix("decayax.").removeprefix("dx.")
        within = "decayax" if name.startswith(MODULES) else module
        return f"[`{match[1]}`][{within}.{name}]"

    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    text = BLOCK.sub(block, text)
    text = INLINE.sub(lambda match: f"${' '.join(match[1].split())}$", text)
    return ROLE.sub(link, text)


class Markdown(griffe.Extension):
    """Griffe asks for a class."""

    def on_package(self, *, pkg, **_):
        """Let `decayax.audit` be the function, and not the module of its name."""
        for package in list(pkg.modules.values()):
            for name, module in package.modules.items():
                if package.is_init_module and name in module.functions:
                    pkg.set_member(name, griffe.Alias(name, f"{module.path}.{name}"))

    def on_function(self, *, func, **_):
        """Hide `Any`: the implementation of overloads, whose docstring says more."""
        for parameter in func.parameters:
            if str(parameter.annotation) == "Any":
                parameter.annotation = None
        if str(func.returns) == "Any":
            func.returns = None

    def on_object(self, *, obj, **_):
        """Convert a docstring after it has been read from the source."""
        if obj.docstring and not obj.is_alias:
            obj.docstring.value = to_markdown(
                obj.docstring.value, module_of(obj.canonical_path)
            )
