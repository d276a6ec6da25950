"""The four families; importing this package registers them with timm."""

from featherbone.backbones import lightvit, lit, lvt, xformer

FAMILIES = (lvt, lightvit, xformer, lit)
"""One module per paper; its `PUBLISHED` holds the figures that the paper states."""
