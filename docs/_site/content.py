"""Changes to the HTML of a page: maths as MathML, and long lines of an output wrapped.

Browsers show MathML without a script and without a network.
"""

import html
import re

from latex2mathml.converter import convert


MATHS = re.compile(
    r'<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', re.DOTALL
)
OUTPUT = re.compile(
    r'(?<=<div class="language-text highlight">).*?(?=</div>)', re.DOTALL
)
SENTENCE = re.compile(r"^(?:<[^>]*>)*[^<\n]{110,}$", re.MULTILINE)


def mathml(match: re.Match) -> str:
    r"""The MathML of a formula: `\(...\)` is in the line, `\[...\]` on its own."""
    display = "inline" if match[1] == "(" else "block"
    return convert(html.unescape(match[2]).strip(), display=display)


def wrapped(match: re.Match) -> str:
    """An output whose lines of more than 110 characters the browser may wrap."""
    return SENTENCE.sub(r'<span class="sentence">\g<0></span>', match[0])


def on_page_content(content, page, config, files):
    """Replace the LaTeX that Markdown has left in the page, and mark long lines."""
    return OUTPUT.sub(wrapped, MATHS.sub(mathml, content))
