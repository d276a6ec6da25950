"""The papers' runs, by name."""

from featherbone.engine.settings import Settings
from featherbone.errors import BadOption, did_you_mean
from featherbone.recipes.imagenet import lightvit_imagenet, lit_imagenet, lvt_imagenet, xformer_imagenet

RECIPES = {recipe.__name__: recipe for recipe in (lvt_imagenet, lightvit_imagenet, xformer_imagenet, lit_imagenet)}


def find_recipe(name: str) -> Settings:
    """The settings of a recipe. Raises `BadOption` with near matches."""
    if name not in RECIPES:
        raise BadOption(f"no recipe {name!r}{did_you_mean(name, RECIPES)} There is: {', '.join(RECIPES)}")
    return RECIPES[name]()
