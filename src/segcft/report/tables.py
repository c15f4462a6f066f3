"""The evaluation's table, Markdown, as HTML that cannot be more than text and tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup


def tables(markdown: str, description: str) -> Markup:
    """The text of ``table.md`` below its title, without the study's ``description``, which is said elsewhere.

    Names in it come from the study's file: HTML, links and images are not read as such.
    """
    text = markdown.partition("\n")[2].strip().removeprefix(description.strip())
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable(["image", "link", "autolink", "reference", "html_block", "html_inline", "code", "fence"])
    tokens = parser.parse(text)
    _mark_groups(tokens)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = "h3"
    html = parser.renderer.render(tokens, parser.options, {})
    html = html.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return Markup(re.sub(r"(±\d+(?:\.\d+)?)", r'<span class="interval">\1</span>', html))


def _mark_groups(tokens: Sequence[Token]) -> None:
    """A line separates rows whose first cell begins otherwise, up to a colon or comma, than that of the row before."""
    before = None
    for k, token in enumerate(tokens):
        if token.type == "tbody_open":
            before = None
        if token.type == "tr_open" and tokens[k + 1].type == "td_open":
            label = re.split("[:,]", tokens[k + 2].content)[0]
            if before not in (None, label):
                token.attrSet("class", "group")
            before = label
