"""Light-weight vision transformers, from a folder of images to a verified file."""

from featherbone import backbones as backbones
