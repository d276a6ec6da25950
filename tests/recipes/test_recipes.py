"""Each recipe trains, for two steps on drawn data, and states its source."""

import re

import pytest

from featherbone.engine.settings import complete, from_card
from featherbone.engine.train import start_run
from featherbone.recipes import RECIPES, find_recipe
from featherbone.tasks.card import Card
from runs import rows
from scenes import WRITE

SHORT = dict(image_size=64, batch_size=2, epochs=1, cooldown_epochs=0, workers=0, device="cpu")
SMALL = {
    "retinanet": "dim=8,num_convs=1",
    "mask_rcnn": "dim=8,fc_dim=8,proposals=20",
    "yolov3": "dim=8",
    "segformer": "dim=8",
    "semantic_fpn": "dim=8,branch_dim=8",
    "panoptic_fpn_light": "dim=8,fc_dim=8,branch_dim=8,proposals=20",
}
"""Narrow heads, by name."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four training and two validation pictures of 64 pixels for a task, drawn once."""
    root = tmp_path_factory.mktemp("drawn")

    def of(task):
        folder = root / WRITE[task].__name__
        if not folder.exists():
            WRITE[task](folder, 4, 2, (64, 64))
        return folder

    return of


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_for_two_steps(name, data, tmp_path):
    text, recipe = RECIPES[name].__doc__, find_recipe(name)
    assert all(word in text for word in ("Command:", "Cost:", "Paper:", "Ours:")) and f"--recipe {name}" in text
    task = re.search(r"--task (\w+)", text)
    task, model = task[1] if task else "classification", re.search(r"--model (\w+)", text)[1]
    more = {"head_args": SMALL[recipe["head"]]} if "head" in recipe else {}
    more |= {"zero_ignored": False} if "zero_ignored" in recipe else {}
    run = start_run(data(task), model, task, tmp_path / "run", complete(None, recipe, task, **SHORT, **more))
    (row,) = rows(run)
    assert row["step"] == 2 and row["train"]["loss"] > 0
    used = from_card(Card.read(run).settings, task).to_dict()
    assert all(used[option] == value for option, value in recipe.items() if option not in {**SHORT, **more})
