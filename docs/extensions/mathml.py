"""
Formulas as MathML, which browsers show by themselves: pages that are read without a network have no script to fetch.
docutils, on which Sphinx is built, converts them.
"""

import html
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def mathml(formula: str, is_block: bool, where: Any = None) -> str:
    """
    :param formula: in LaTeX's notation
    :param is_block: whether it stands in a line of its own
    :param where: the node that it is in, for the warning
    :return: a ``<math>`` element; the formula itself, with a warning, where it is not understood
    """
    try:
        return latex2mathml.tex2mathml(formula.strip(), as_block=is_block)
    except MathError as error:
        logger.warning("formula %r: %s", formula.strip(), error, location=where)
        return f"<code>{html.escape(formula)}</code>"


def _visit_inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(mathml(node.astext(), False, node))
    raise nodes.SkipNode


def _visit_block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(mathml(node.astext(), True, node) + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
