"""Optimisers and learning-rate schedules, as a recipe asks for them."""

import torch
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, StepLR


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum; in groups with `orthogonal=True` the update is orthogonalised.

    K. Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"
    (kellerjordan.github.io/posts/muon): a convolution's update, seen as a matrix
    (outputs, inputs·kernel²), is replaced by the nearest matrix with orthonormal rows or columns,
    so that every direction moves by the same amount.

    groups: parameter groups, as `muon_groups` makes them.
    lr, momentum: for the groups that do not say.
    weight_decay: decoupled in orthogonal groups, L2 elsewhere.
    """

    def __init__(self, groups, lr, momentum=0.9, weight_decay=0.0):
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, orthogonal=False)
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self):
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._update(weights, group)

    def _update(self, weights, group):
        gradients = [weight.grad for weight in weights]
        if not group["orthogonal"]:
            gradients = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        for weight in weights:
            if weight not in self.state:
                self.state[weight]["velocity"] = torch.zeros_like(weight)
        velocities = [self.state[weight]["velocity"] for weight in weights]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, gradients)
        updates = torch._foreach_add(gradients, velocities, alpha=group["momentum"])  # Nesterov
        if group["orthogonal"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            updates = orthogonalised(updates)
        torch._foreach_add_(weights, updates, alpha=-group["lr"])


def orthogonalised(updates):
    """Each update, as a matrix (outputs, inputs·kernel²), orthogonalised; a list of their shapes.

    Those of one shape in one call: a GPU waits for launches here, not for arithmetic.
    """
    alike = {}
    for number, update in enumerate(updates):
        alike.setdefault(update.flatten(1).shape, []).append(number)
    done = list(updates)
    for numbers in alike.values():
        matrices = torch.stack([updates[number].flatten(1) for number in numbers])
        for number, matrix in zip(numbers, orthogonalise(matrices), strict=True):
            done[number] = matrix.view_as(updates[number])
    return done


def orthogonalise(matrices, steps=3):
    """Moves the singular values of matrices towards 1, by Newton-Schulz iteration: no SVD needed.

    Each step replaces every singular value s by 3.4445 s - 4.7750 s³ + 2.0315 s⁵. Jordan (2024)
    chose these coefficients not to arrive at 1 but to lift small values fastest, 3.4445-fold: after
    three steps every value from 0.02 on lies between 0.68 and 1.21, and the network trains no worse
    for it. Three steps lift the smallest ones 40-fold. What then still falls short are directions
    in which the update hardly points, and the steps are all that Muon costs.

    matrices: (..., rows, columns), none of only zeros; bfloat16 or wider.
    steps: 3, as in github.com/KellerJordan/cifar10-airbench; for language models 5 are usual.
    """
    rows, columns = matrices.shape[-2:]
    x = matrices.reshape(-1, rows, columns)
    x = x.mT if rows > columns else x  # the product below is as small as it can be
    # Largest singular value 1 or less, else the iteration diverges.
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        a = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, a, x, beta=3.4445)
    return (x.mT if rows > columns else x).reshape(matrices.shape)


def make_optimizer(model, recipe):
    """The recipe's optimiser for the trainable parameters of `model`."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    decay = recipe.weight_decay
    if recipe.optimizer == "sgd":
        nesterov = recipe.nesterov
        return torch.optim.SGD(
            parameters, recipe.lr, recipe.momentum, weight_decay=decay, nesterov=nesterov
        )
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, recipe.lr, weight_decay=decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, recipe.lr, weight_decay=decay)
    return Muon(muon_groups(model, recipe), recipe.lr, recipe.momentum)


def muon_groups(model, recipe):
    """The parameter groups of `Muon`: convolution weights, to be orthogonalised, and all others."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    filters = [p for p in parameters if is_filter(p)]
    others = [p for p in parameters if not is_filter(p)]
    return [
        dict(params=filters, lr=recipe.muon_lr, orthogonal=True, weight_decay=recipe.muon_decay),
        dict(params=others, weight_decay=recipe.weight_decay),
    ]


def is_filter(parameter):
    """Whether it is the weight of a convolution that mixes channels.

    Not of a depthwise one: each of its rows has one input, there are no directions to even out; nor
    a scale of the channels, (1, C, 1, 1), which is one row.
    """
    return parameter.ndim == 4 and min(parameter.shape[:2]) > 1


def make_schedule(optimizer, recipe, steps_per_epoch):
    """The recipe's learning-rate schedule, to be stepped after *every batch*.

    A OneCycleLR that is stepped once an epoch never gets going (experiments/02_mistakes.ipynb).

    steps_per_epoch: how many batches an epoch has.

    Raises ValueError for a OneCycle whose way up is one step: torch divides by its length less one.
    """
    steps = recipe.epochs * steps_per_epoch
    if recipe.schedule == "onecycle":
        if recipe.warmup * steps == 1:
            raise ValueError(
                f"A warmup of {recipe.warmup} is one of {steps} steps, too short for OneCycle; "
                "use more epochs, smaller batches or another warmup."
            )
        # From max/25 up to max and down to max/25/1000; momentum from 0.95 to 0.85 and up again.
        peaks = [group["lr"] for group in optimizer.param_groups]
        warmup = float(recipe.warmup)  # torch refuses a whole 0
        return OneCycleLR(optimizer, peaks, steps, pct_start=warmup, final_div_factor=1000)
    if recipe.schedule == "step":
        return StepLR(optimizer, recipe.step_epochs * steps_per_epoch, recipe.step_gamma)
    if recipe.schedule == "constant":
        return LambdaLR(optimizer, lambda step: 1.0)

    def triangle(step):
        rising = (step + 1) / (recipe.warmup * steps + 1e-9)  # a warm-up of 0 divides by no zero
        falling = (steps - step) / ((1 - recipe.warmup) * steps)
        return max(0.0, min(1.0, rising, falling))

    return LambdaLR(optimizer, triangle)
