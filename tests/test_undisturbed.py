"""Looking at a network leaves nothing behind, whatever it is wrapped in and however it ends."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import analysis
from model import MODELS, count_parameters


class Keeper(nn.Module):
    """Keeps activations, counts, draws, freezes a layer, and may fail in the middle."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.frozen = nn.BatchNorm2d(8, momentum=1.0).eval()
        self.output = nn.Linear(8, 10)
        self.register_buffer("seen", torch.zeros(1))
        self.kept, self.all, self.lock, self.fails = None, [], threading.Lock(), False
        self.of = {"conv": []}

    def forward(self, x, return_features=False):
        with torch.no_grad():
            self.conv.weight.clamp_(-0.01, 0.01)
        self.seen += 1
        self.kept = F.dropout(self.frozen(self.norm(self.conv(x))), 0.5)
        self.all.append(self.kept)
        self.of["conv"].append(self.kept)
        if self.fails:
            raise RuntimeError("in the middle")
        features = self.kept.mean((2, 3))
        return (self.output(features), features) if return_features else self.output(features)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    "look", [analysis.layers, analysis.receptive_field, analysis.check_assignment, analysis.summary]
)
def test_nothing_is_left(look, fails, capsys):
    network, outside = Keeper(), []
    network.conv.register_forward_hook(lambda *call: outside.append(call))
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    network.fails = fails
    state = {name: value.clone() for name, value in network.state_dict().items()}
    grads = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    kept, modes = network.kept, [module.training for module in network.modules()]
    torch.manual_seed(3)
    drawn, _ = torch.rand(1), torch.manual_seed(3)
    if fails:
        with pytest.raises((ValueError, RuntimeError), match="in the middle"):
            look(network)
    else:
        look(network)
    assert torch.rand(1) == drawn
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    found = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(map(torch.equal, grads, found))
    assert network.kept is kept
    assert network.all == [kept]
    assert modes == [module.training for module in network.modules()]
    assert len(outside) == 1
    assert len(network.conv._forward_hooks) == 1
    assert not network.output._forward_hooks
    assert not torch.nn.modules.module._global_forward_hooks


def test_a_backward_pass_may_wait():
    network = MODELS["net"]()
    loss = network(torch.randn(2, 3, 32, 32)).sum()
    analysis.check_assignment(network)
    loss.backward()


def parametrised(network):
    for module in network.modules():
        if type(module) is nn.Conv2d:
            nn.utils.parametrizations.weight_norm(module)
    return network


def partly_compiled(network):
    network.c1 = torch.compile(network.c1)
    return network


class Lightning(nn.Module):
    """As people write it for Lightning: the network is one attribute of several."""

    def __init__(self, network):
        super().__init__()
        self.network, self.loss = network, nn.CrossEntropyLoss()

    def forward(self, x):
        return self.network(x)


WRAPPINGS = {
    "compiled": torch.compile,
    "partly compiled": partly_compiled,
    "parallel": nn.DataParallel,
    "bfloat16": lambda network: network.bfloat16(),
    "double": lambda network: network.double(),
    "channels last": lambda network: network.to(memory_format=torch.channels_last),
    "weight norm": parametrised,
    "traced": lambda network: torch.jit.trace(network.eval(), torch.randn(1, 3, 32, 32)),
    "Lightning": Lightning,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "twice": lambda network: nn.Sequential(nn.ModuleDict({"a": network})["a"]),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings_change_no_verdict(wrapping):
    wrapped = WRAPPINGS[wrapping](MODELS["net"]())
    assert all(rule.passed for rule in analysis.check_assignment(wrapped, accuracy=0.9))
    found = analysis.layers(wrapped)
    assert found[-1].receptive_field == 52
    assert sum(layer.macs for layer in found) == 11_309_696
    assert sum(layer.parameters for layer in found) == count_parameters(wrapped)


class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 10)

    def forward(self, x):
        raise KeyError("features")


def test_what_is_no_network_that_runs_gets_one_sentence():
    for look in (analysis.layers, analysis.receptive_field, analysis.check_assignment):
        with pytest.raises(ValueError, match=r"Raises is a class; hand over a network, Raises\(\)"):
            look(Raises)
        with pytest.raises(ValueError, match="str is no network"):
            look("net")
        with pytest.raises(ValueError, match=r"cannot follow Raises.forward on 1 x .*features"):
            look(Raises())
        with pytest.raises(ValueError, match=r"cannot follow Conv2d.forward on 1 x \(3, 32, 32\)"):
            look(nn.Conv2d(1, 8, 3))
        with pytest.raises(ValueError, match="Sequential has layers without weights"):
            look(nn.Sequential(nn.LazyConv2d(8, 3)))


class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.output = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

    def forward(self, x):
        x = F.adaptive_avg_pool2d(self.conv(x), 1).squeeze()
        return F.log_softmax(self.output(x), dim=1)


def test_what_runs_on_two_images_alone_is_told_why():
    with pytest.raises(ValueError, match=r"With two it runs: does a .*\.flatten\(1\)"):
        analysis.check_assignment(Squeezed())
