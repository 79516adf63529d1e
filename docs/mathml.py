"""Mathematics as MathML, which browsers draw without a script and without the network."""

import re

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

LOGGER = logging.getLogger(__name__)


def setup(app):
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(writer, node):
    writer.body.append(_markup(node, block=False))
    raise nodes.SkipNode


def _display(writer, node):
    writer.body.append(writer.starttag(node, "div", CLASS="math"))
    if node["number"]:
        number = get_node_equation_number(writer, node)
        writer.body.append(f'<span class="eqno">({number})')
        writer.add_permalink_ref(node, "Link to this equation")
        writer.body.append("</span>")
    writer.body.append(_markup(node, block=True) + "</div>\n")
    raise nodes.SkipNode


def _markup(node, *, block):
    try:
        markup = latex2mathml.tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        LOGGER.warning("mathematics %r: %s", node.astext(), error, location=node)
        return ""
    # A bar that has an exponent would be stretched, and sink below the line.
    return re.sub(r"<mo[^>]*>([|‖])</mo>", r'<mo stretchy="false">\1</mo>', markup)
