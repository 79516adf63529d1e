"""Configuration of the documentation; `sphinx-build -W -n docs docs/_build` needs no network."""

import sys
from pathlib import Path

from docutils.parsers.rst import Directive

import hoag_shine

sys.path.insert(0, str(Path(__file__).parent))

import inventories
import policy_constants

project = "hoag_shine"
author = "the hoag_shine developers"
project_copyright = author
version = release = hoag_shine.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "mathml",
    "myst_parser",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "py:obj"
nitpicky = True
# Building needs no network: of other packages, only the names in inventories.py are links.
intersphinx_mapping = inventories.mapping(Path(__file__).parent / "_build" / "inventories")
nitpick_ignore_regex = [("py:.*", r"(numpy|scipy|sklearn|matplotlib|joblib|rich|torch)\..*")]

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc docstrings state types, with shapes
autodoc_inherit_docstrings = False  # an override that says nothing new is not listed again

# Written by scikit-learn, which documents them.
autodoc_default_options = {"exclude-members": "set_fit_request,set_score_request"}
numpydoc_show_class_members = False  # the templates list them
numpydoc_validation_checks = {
    "GL03",  # double blank lines
    "GL06",  # unknown section
    "GL07",  # sections out of order
    "GL08",  # no docstring
    "PR02",  # parameter unknown to the signature
    "SS02",  # summary does not start with a capital
    "SS06",  # summary longer than a line
}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
}

html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme = "pydata_sphinx_theme"
html_title = f"{project} {release}"
html_show_sourcelink = False


class Constants(Directive):
    """The table of the policy constants."""

    def run(self):
        lines = list(policy_constants.table())
        self.state_machine.insert_input(lines, "policy_constants")
        return []


def setup(app):
    app.add_directive("constants", Constants)
