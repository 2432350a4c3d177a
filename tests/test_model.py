"""The networks, to the parameter."""

import pytest
import torch

import model as m
from analysis import receptive_field

FACTS = {  # parameters, receptive field
    "strided": (154_544, 37),
    "wide": (2_034_040, 33),
    "dilated": (195_946, 45),
    "compact": (150_738, 55),
    "stacked": (118_546, 49),
}


@pytest.mark.parametrize("name", FACTS)
def test_published_networks_to_the_parameter(name):
    network = m.MODELS[name]()
    assert (m.count_parameters(network), receptive_field(network)) == FACTS[name]


@pytest.mark.parametrize("name", m.MODELS)
def test_docstrings_state_size_and_receptive_field(name):
    network = m.MODELS[name]()
    assert (
        f"{m.count_parameters(network):,} parameters, receptive field {receptive_field(network)}"
        in network.__doc__
    )


@pytest.mark.parametrize("name", m.MODELS)
def test_logits(name):
    network = m.MODELS[name]().eval()
    logits = network(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    for sums in (logits.sum(1), logits.exp().sum(1)):  # no softmax inside, nor its logarithm
        assert not torch.allclose(sums, torch.ones(2))
