import pytest
import timm
import torch
from torch import nn

import featherbone
from featherbone.benchmarking.models import published
from featherbone.deployment import deploy
from featherbone.tasks.card import Card
from featherbone.tasks.dense import dense_preprocessing
from featherbone.tasks.run import build_task

SMALL = ["lvt", "lvt_cls", "lightvit_tiny", "xformer_small", "lit_tiny", "lit_small"]
PEERS = ["mobilenetv3_small_050", "test_resnet", "test_efficientnet", "repvgg_a0", "efficientvit_b0", "mobilevit_xxs"]


def lively(net):
    """With statistics and scales that a norm cannot be without."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    for name, parameter in net.named_parameters():
        if name.endswith(("temperature", "bias_table", "offset.weight")):
            nn.init.normal_(parameter, std=0.3)
    return net.eval()


def norms(net):
    return [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("name", SMALL + PEERS)
def test_the_inference_form_is_equal(name):
    net = lively(timm.create_model(name, num_classes=7, drop_rate=0.1))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    images = torch.randn(2, 3, 64, 96)
    form = deploy(net, (64, 96))
    with torch.inference_mode():
        expected, got = net(images), form(images)
        torch.testing.assert_close(got, expected, atol=1e-5 * expected.std().item(), rtol=1e-5)
        other = torch.randn(1, 3, 96, 64)
        torch.testing.assert_close(deploy(net)(other), net(other), atol=1e-5 * expected.std().item(), rtol=1e-5)
    assert not norms(form)
    assert not any(isinstance(m, timm.layers.DropPath | nn.Dropout) for m in form.modules())
    assert not any(p.requires_grad for p in form.parameters())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())


def test_every_family_is_tried():
    assert {name.split("_")[0] for name in published()} == {name.split("_")[0] for name in SMALL}


@pytest.mark.parametrize(("task", "head"), [("detection", "yolov3"), ("semantic", "segformer")])
def test_a_task_with_a_head_is_equal(task, head):
    torch.manual_seed(0)
    name = "xformer_small"
    net = lively(build_task(Card(task, name, ("a", "b"), dense_preprocessing(name, None, 64), head=head)))
    images = torch.randn(1, 3, 64, 64)
    form = featherbone.deploy(net, (64, 64))
    assert norms(net) and not norms(form)
    with torch.inference_mode():
        for mine, theirs in zip(flat(net(images)), flat(form(images)), strict=True):
            torch.testing.assert_close(theirs, mine, atol=1e-5 * mine.std().item(), rtol=1e-5)


def flat(raw):
    from featherbone.exporters.forms import flatten

    return flatten(raw).values()


class Forked(nn.Module):
    """A convolution that a norm reads, and on demand another reader."""

    def __init__(self, read_twice, call_twice=False):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.read_twice, self.call_twice = read_twice, call_twice

    def forward(self, x):
        y = self.conv(x)
        out = self.norm(y)
        out = out + y if self.read_twice else out
        return out + self.norm(x) if self.call_twice else out


@pytest.mark.parametrize(("given", "left"), [((False,), 0), ((True,), 1), ((False, True), 1)])
def test_a_norm_is_folded_where_it_alone_reads_the_convolution(given, left):
    net = lively(Forked(*given))
    form = deploy(net)
    assert len(norms(form)) == left
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(form(images), net(images))


def test_grey_images():
    net = lively(timm.create_model("test_resnet", in_chans=1, num_classes=3))
    images = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(deploy(net)(images), net(images), atol=1e-5, rtol=1e-5)


def test_tables_have_the_size_in_the_copy_alone():
    net = lively(timm.create_model("lit_small", num_classes=3))
    before = {name: value.shape for name, value in net.state_dict().items()}
    form = deploy(net, (96, 64))
    assert form.stages[3].blocks[0].attn.bias.bias.shape[1:] == (6, 6)  # of a map 3 x 2
    graph = deploy(net, (96, 64), "graph")
    assert graph.stages[3].blocks[0].attn.bias.weight.shape[1:] == (5, 3)  # 2H - 1, 2W - 1
    assert {name: value.shape for name, value in net.state_dict().items()} == before
