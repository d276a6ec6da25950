"""The four families; importing this package registers them with timm."""

from featherbone.backbones import lightvit, lit, lvt, xformer

FAMILIES = (lvt, lightvit, xformer, lit)
"""One module a paper; each has `PUBLISHED`, what the paper states of its sizes."""
