"""Weights averaged over a training's steps: a better network for memory and a few batches an epoch.

Polyak and Juditsky 1992; here as an exponential mean. With batch-norm statistics of its own, as in
Izmailov et al. 2018 (arXiv:1803.05407), whose mean is a plain one.
"""

from itertools import islice

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from core.device import autocast
from core.spread import convert_sync_batchnorm

BATCHES = 20


def follow(network, optimizer, decay):
    """A copy of `network` whose weights are averaged after each step of `optimizer`.

    The first time it copies the network's weights; from then on its own become `decay` of what
    they were and 1 - `decay` of the network's.
    A decay of 0 returns the network itself. The copy has a state_dict, for checkpoints.
    """
    if not decay:
        return network
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
    convert_sync_batchnorm(average)  # `settled` draws its statistics from all processes' images
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(network))
    return average


def settled(average, batches, recipe, precision):
    """The network inside what `follow` returned, ready to be judged.

    The batch-norm statistics that it has are another network's; up to BATCHES of the training
    batches give it its own. Not the last one, where there are several: it may be too small, or
    empty in some processes.
    """
    if not isinstance(average, AveragedModel):
        return average
    device = next(average.parameters()).device
    # Before `autocast`, in which augmentation would be computed in few digits, too.
    drawn = [images for images, _ in islice(batches, min(BATCHES, max(1, len(batches) - 1)))]
    if not recipe.channels_last:
        drawn = [images.contiguous() for images in drawn]
    with autocast(device, precision):
        update_bn(drawn, average.module, device)
    if device.type != "cpu":
        torch.accelerator.synchronize(device)  # this is the training's time, not the evaluation's
    return average.module
