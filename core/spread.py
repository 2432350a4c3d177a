"""A network that several processes train as if one of them saw the whole batch."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from core.distributed import all_reduce, size


def scale_for_ddp(loss, count):
    """`loss`, the mean over `count` samples of this process, as its part in that of all.

    DistributedDataParallel averages gradients over processes, not over samples.
    """
    if size() == 1:
        return loss
    return loss * count * size() / all_reduce(torch.tensor(count, device=loss.device))


def wrap_ddp(network):
    """What `train_epoch` trains in the place of `network`: it shares weights and buffers with it.

    Layers that are BatchNorm themselves, no subclasses of it, normalise over all processes.
    """
    if size() == 1:
        return network
    convert_sync_batchnorm(network)
    # static_graph: parameters that the network does not use are no error.
    return DistributedDataParallel(network, static_graph=True)


def convert_sync_batchnorm(network):
    """Puts a `SyncBatchNorm` in the place of each BatchNorm, where there are several processes."""
    found = list(network.named_modules(remove_duplicate=False)) if size() > 1 else ()
    made = {}  # a layer may have several names
    for path, layer in found:
        if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            parent, _, name = path.rpartition(".")
            made[layer] = made.get(layer) or SyncBatchNorm.like(layer)
            setattr(network.get_submodule(parent), name, made[layer])


def broadcast_buffers(network):
    """Gives all processes the first one's buffers: the network that is evaluated is one."""
    for buffer in network.buffers() if size() > 1 else ():
        dist.broadcast(buffer, 0)


class Sum(torch.autograd.Function):
    """The sum over all processes, with its gradient: that is the sum of theirs."""

    @staticmethod
    def forward(ctx, tensor):
        return all_reduce(tensor.clone())

    @staticmethod
    def backward(ctx, gradient):
        return all_reduce(gradient.clone())


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm that is trained with the statistics of the whole batch, however it is split.

    nn.SyncBatchNorm is the same for GPUs alone.
    """

    @classmethod
    def like(cls, layer):
        """A layer in the place of `layer`, with the very same parameters and buffers."""
        options = layer.eps, layer.momentum, layer.affine, layer.track_running_stats
        new = cls(layer.num_features, *options)
        for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
            setattr(new, name, tensor)
        return new

    def _check_input_dim(self, x):
        """Any: the network worked before it was spread."""

    def forward(self, x):
        """(N, C, ...) -> the same; N may be 0 here, if it is not so everywhere."""
        if not self.training or size() == 1:
            return super().forward(x)
        axes, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # of halves sums would be coarse
        here = wide.new_tensor([x.numel() / x.size(1)])
        total, count = Sum.apply(torch.cat([wide.sum(axes), here])).split([x.size(1), 1])
        if count <= 1:
            raise ValueError("Expected more than 1 value per channel when training")
        mean = total / count
        variance = Sum.apply((wide - mean.view(shape)).square().sum(axes)) / count
        self._keep(mean.detach(), variance.detach() * count / (count - 1))
        scale = (variance + self.eps).rsqrt() * (1 if self.weight is None else self.weight)
        offset = (0 if self.bias is None else self.bias) - mean * scale
        return torch.addcmul(offset.view(shape), wide, scale.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _keep(self, mean, variance):
        if self.track_running_stats:
            self.num_batches_tracked += 1
            momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance, momentum)
