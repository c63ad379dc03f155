"""The documentation as a site: ``make docs`` builds it offline, warnings are errors, examples run as doctests."""

project = "Noise-boosted recurrent backpropagation"
author = "the authors of this implementation"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.doctest"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["print.css"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "description"
doctest_global_setup = """
import torch
from nem import *
_ = torch.manual_seed(1)
generator = torch.Generator().manual_seed(1)
logits, labels = torch.randn(8, 11), torch.arange(8)
prediction, target = torch.randn(8, 1), torch.randn(8, 1)
"""
