"""The four families; importing this package registers them with timm."""

from featherbone.backbones import lvt

FAMILIES = (lvt,)
"""One module a paper; each has `PUBLISHED`, what the paper states of its sizes."""
