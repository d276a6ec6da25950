"""The four families; importing this package registers them with timm."""

from featherbone.backbones import lvt as lvt
