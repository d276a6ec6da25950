import re

import pytest
import timm

from featherbone.engine.settings import DEFAULTS, parse_keywords
from featherbone.recipes import RECIPES, find_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_complete_and_says_what_it_gave(name):
    settings = find_recipe(name)
    assert settings.keys() == DEFAULTS.keys()
    text = RECIPES[name].__doc__
    assert all(word in text for word in ("Command:", "Cost:", "Paper:", "Ours:"))
    model = re.search(r"--model (\w+)", text)[1]
    timm.create_model(model, **parse_keywords(settings["model_args"]))
