"""Maths as MathML, which browsers show without a script and without a network."""

import html
import re

from latex2mathml.converter import convert


MATHS = re.compile(
    r'<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', re.DOTALL
)


def mathml(match: re.Match) -> str:
    """The MathML of a formula: `\\(...\\)` is in the line, `\\[...\\]` on its own."""
    display = "inline" if match[1] == "(" else "block"
    return convert(html.unescape(match[2]).strip(), display=display)


def on_page_content(content, page, config, files):
    """Replace the LaTeX that Markdown has left in the page."""
    return MATHS.sub(mathml, content)
