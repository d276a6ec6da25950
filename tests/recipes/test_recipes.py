import re

import pytest
import timm

from featherbone.engine.settings import complete, parse_keywords
from featherbone.recipes import RECIPES, find_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_complete_and_says_what_it_gave(name):
    text = RECIPES[name].__doc__
    task = re.search(r"--task (\w+)", text)
    settings = complete(None, find_recipe(name), task[1] if task else "classification")
    assert all(word in text for word in ("Command:", "Cost:", "Paper:", "Ours:"))
    model = re.search(r"--model (\w+)", text)[1]
    timm.create_model(model, **parse_keywords(settings.model_args))
