"""The site: ``make docs`` builds it into build/docs, without warnings and with nothing from outside."""

import importlib.metadata
import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

project = "catchment"
author = "the catchment authors"
version = release = importlib.metadata.version("catchment")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["examples/*"]
html_theme = "furo"
html_title = "catchment"
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Types in signatures name things of torch and numpy, whose sites are not looked at while building.
nitpicky = False


def _mathml(tex: str, as_block: bool) -> str:
    """docutils knows neither ``\\dots`` nor the sizes of brackets, which browsers choose themselves; in ``\\frac12``
    it takes 12 for one number.
    """
    tex = re.sub(r"\\[bB]igg?[lr]?(?![a-zA-Z])", "", tex.replace(r"\dots", r"\ldots"))
    return tex2mathml(re.sub(r"frac\s*(\w)\s*(\w)", r"frac{\1}{\2}", tex), as_block=as_block)


def _inline(translator, node: nodes.math) -> None:
    translator.body.append(_mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def _block(translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{_mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app) -> dict[str, bool]:
    """Formulas as MathML, which browsers draw themselves."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
