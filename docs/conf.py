"""Sphinx configuration."""

import sys
from pathlib import Path

import sb3_genpolicy

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "sb3_genpolicy"
author = "the sb3_genpolicy maintainers"
project_copyright = "2026, the sb3_genpolicy maintainers"
release = version = sb3_genpolicy.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "mathml"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
html_math_renderer = "mathml"
html_theme = "furo"
html_title = "sb3_genpolicy"
html_static_path = ["_static"]
html_css_files = ["own.css"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
