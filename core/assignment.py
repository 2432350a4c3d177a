"""What the assignment asks of a network, looked for in the operations that its output comes from.

Each function takes a `Sight` of the network and returns what it found, by the names of the modules.
"""

import math

import torch

from core.probing import Push
from core.tracing import COPIES, MAXIMA, picture

LOGITS = 10
BLOCKS = 4
WINDOWS = ("im2col", "pixel_unshuffle")  # each puts the positions of a window beside each other
SCALING = ("sub", "rsub", "div", "add", "clamp", "clamp_min", "reciprocal")


def where(operation):
    """The module that an operation belongs to, or its weight; its own name where it has none."""
    path = path_of(operation)
    return ".".join(path[:-1] if path[-1] in ("weight", "bias") and path[1:] else path)


def path_of(operation):
    """Where in the tree of modules: its module, or its weight where that has several to run."""
    call = operation.call
    alone = sum(other.convolves for other in call.operations) <= 1
    if call.name and (alone or not operation.convolves):
        return tuple(call.name.split("."))
    return tuple(min(operation.parameters, default=plain(operation)).split("."))


def plain(operation):
    """The name of an operation as one writes it."""
    if operation.convolves:
        kind = "conv_transpose" if operation.transposed else "conv"
        return f"{kind}{len(operation.kernel)}d"
    if operation.name in ("mm", "addmm", "bmm", "baddbmm"):
        return "linear" if operation.parameters else "matmul"
    return operation.name.removesuffix("_with_indices").strip("_")


def convolutions_in(sight):
    """The convolutions of maps, and apart from them the one that makes the logits, if one does.

    That is the last one, with as many channels as there are classes and no layer with weights
    after it; a 1x1 convolution after global pooling works on no map.
    """
    flow = sight.trace.flow()
    found = [op for op in flow if op.convolves and op.learns and sight.is_map(op)]
    weighing = [op.number for op in flow if op.macs and (op.learns or not op.convolves)]
    for op in found:
        after = [number for number in weighing if number > op.number]
        if op.output[1] == LOGITS and not sight.trace.ancestors(after) & {op.number}:
            return [other for other in found if other is not op], op
    return found, None


def blocks_in(sight):
    """Names of the blocks: the children with convolutions of the first module that has four.

    Modules with one such child are wrappers and not counted. Among two or three children one may be
    the body of the network, which has four itself, and the others its stem and head: blocks of
    layers, or layers where stem and head are one each. Of children that stand beside each other, as
    branches do, one counts: that of the longest way through.
    """
    convolutions, _ = convolutions_in(sight)
    if not convolutions:
        return []
    operations, ways = {}, {}  # of each part: what is in it, and the longest way to its end
    for part in children(list(map(path_of, convolutions)), ()):
        inside = {op.number for op in convolutions if path_of(op)[: len(part)] == part}
        above = sight.trace.ancestors(inside)
        before = [ways[other] for other, theirs in operations.items() if above & theirs]
        operations[part] = inside
        ways[part] = [*max(before, key=len, default=[]), ".".join(part)]
    return max(ways.values(), key=len)


def children(paths, parent):
    """The paths, one step below `parent` or more, of what counts as its children."""
    depth = len(parent) + 1
    inside = [path for path in paths if path[: depth - 1] == parent and len(path) >= depth]
    found = list(dict.fromkeys(path[:depth] for path in inside)) or [parent]
    if len(found) >= BLOCKS or found == [parent]:
        return found
    within = {child: children(paths, child) for child in found}
    if len(found) == 1:
        return within[found[0]]
    bodies = [child for child in found if len(within[child]) >= BLOCKS]
    of_blocks = [child for child in bodies if not set(within[child]) <= set(paths)]
    counts = [sum(path[:depth] == child for path in paths) for child in found]
    bodies = of_blocks or (bodies if sum(count > 1 for count in counts) == 1 else [])
    if len(bodies) == 1:
        return [part for child in found for part in (within[child] if child in bodies else [child])]
    return found


def separable_in(sight):
    """Depthwise convolutions whose result a pointwise one mixes, nothing but local between them.

    depthwise: every channel for itself, one or several results of each, kernel larger than 1x1.
    pointwise: a dense 1x1 convolution, or a linear layer, over the channels of every position.
    Normalisation, activation, dropout and a gate (squeeze-and-excite) may stand between, and the
    depthwise layer's own input, before or after its normalisation or activation, may be added, or
    concatenated with the results of other depthwise layers on it (MixConv, arXiv:1907.09595): all
    of that leaves the channels apart.
    """
    flow = sight.trace.flow()
    return [where(op) for op in flow if is_depthwise(op, sight) and is_mixed(op, flow, sight)]


def is_depthwise(op, sight):
    if not op.convolves or not op.learns or op.transposed or max(op.kernel) == 1:
        return False
    return op.groups == op.before[1] > 1 and math.prod(op.output[2:]) > 1 and sight.is_map(op)


def is_mixed(depthwise, flow, sight):
    """Whether a pointwise layer follows: `chain` are results whose channels are still apart, with
    how many there are, `gates` what is made of their means, or of the input's.
    """
    kin, positions = kin_of(depthwise, flow, sight), math.prod(depthwise.output[2:])
    beside = [op for op in flow if op.inputs and op.inputs <= kin and is_depthwise(op, sight)]
    siblings = [depthwise, *beside]  # the image has no number, so what is on it stands alone
    chain, gates = {op.number: op.output[1] for op in siblings}, set()
    for op in flow:
        if not op.inputs or not op.inputs <= chain.keys() | gates | kin:
            continue
        channels = max((chain[number] for number in op.inputs & chain.keys()), default=0)
        if op.inputs <= gates or op.pools_all:
            gates.add(op.number)
        elif not channels:
            continue
        elif is_pointwise(op, channels, positions):
            return True
        elif math.prod(op.output) == positions:
            gates.add(op.number)  # one number a position, as a norm's mean over the channels
        elif op.local or op.name == "cat":
            chain[op.number] = math.prod(op.output) // positions
    return False


def kin_of(depthwise, flow, sight):
    """Numbers of the results that have the depthwise layer's input's channels, none mixed: what it
    is made of by normalisation, activation and the like, and what is made of these so.
    """
    operations, source = sight.trace.operations, depthwise.inputs
    kin = set(source)
    while len(source) == 1 and (op := operations[min(source)]).local and len(op.inputs) == 1:
        source = op.inputs
        kin |= source
    for op in flow:
        alone = op.convolves and max(op.kernel) == 1 < op.groups == op.before[1] == op.output[1]
        if op.inputs and op.inputs <= kin and (op.local or alone):
            kin.add(op.number)
    return kin


def is_pointwise(op, channels, positions):
    """Whether it mixes so many channels at every position."""
    if op.convolves:
        alone = op.learns and max(op.kernel) == op.groups == 1 and not op.transposed
        return alone and op.before[1] == channels and op.positions_before == positions
    results = math.prod(op.output)
    return bool(op.parameters) and op.macs == results * channels and results % positions == 0


def dilated_in(sight):
    """Dilated convolutions (Yu and Koltun 2015, arXiv:1511.07122).

    Along an axis where the kernel is 1 there is nothing to dilate.
    """
    convolutions = [op for op in sight.trace.flow() if op.convolves and op.learns]
    return [where(op) for op in convolutions if any(map(spread, op.kernel, op.dilation))]


def spread(kernel, dilation):
    return kernel > 1 and dilation > 1


def max_pools_in(sight):
    """Maxima over positions, by a layer or by amax and the like; not those over channels."""
    return [where(op) for op in sight.trace.flow() if is_max_pool(op, sight)]


def is_max_pool(op, sight):
    if "max_pool" in op.name:
        return True
    sources = [sight.trace.operations[number] for number in op.inputs]
    whole = math.prod(sight.shape[-2:])
    size = max((sight.positions(source)[1] for source in sources), default=whole)
    return (spatial(op, sight) or of_parts(op, sight)) and not only_scales(op, size, sight)


def only_scales(op, size, sight):
    """Whether a number is only taken off a map of `size` positions, or divides it: no pooled map.

    As when an image is brought to 0..1 by its smallest and largest value, or in a softmax.
    """
    users = [other for other in sight.trace.flow() if op.number in other.inputs]
    return bool(users) and all(
        user.name.rstrip("_") in SCALING
        and (sight.positions(user)[1] == size > 1 or only_scales(user, size, sight))
        for user in users
    )


def of_parts(op, sight):
    """Whether `op` keeps the largest of several parts of one map, each with fewer positions."""
    parts = op if op.name in ("maximum", "fmax") else None
    if op.name in MAXIMA and len(op.inputs) == 1:
        parts = sight.trace.operations[min(op.inputs)]  # torch.stack(parts).amax(0)
    if parts is None or len(parts.inputs) != 1:
        return False
    if parts.operands < 2 and parts.name not in WINDOWS:
        return False
    source = sight.trace.operations[min(parts.inputs)]
    fewer = sight.positions(op)[1] < sight.positions(source)[1]
    # With a stride of 1 as many are left, and of each window's values one.
    return fewer or (parts.name in WINDOWS and math.prod(op.output) == math.prod(source.output))


def spatial(op, sight):
    """Whether `op` reduces dimensions that run over positions."""
    if not op.reduced:
        return False
    sources = [sight.trace.operations[number] for number in op.inputs]
    for source in sources:
        # Channels last look the same where there are as many channels as rows or columns.
        alike = source.output == op.before
        if alike and set(source.output[1:2]).isdisjoint(source.output[2:]):
            return bool(set(sight.positions(source)[0]) & set(op.reduced))
    # A view has other axes: positions, or groups of channels? Of positions fewer are left.
    whole = math.prod(sight.shape[-2:])
    places = max((sight.positions(source)[1] for source in sources), default=whole)
    return sight.positions(op)[1] < places


def global_average_in(network, sight):
    """The operation that averages the last map, and what is wrong if the output sees more of it.

    Tried out: if the output hangs on the mean over all positions and on nothing else, then adding
    something with a mean of zero to the map changes nothing behind the pooling, while adding the
    same to all positions does. So it does not matter how the mean is written.
    """
    trace = sight.trace
    maps = [op for op in trace.flow() if sight.is_map(op)]
    if not maps:
        return [], "no map comes before the output"
    axes, size = sight.positions(maps[-1])
    later = [op for op in trace.flow() if op.number >= maps[-1].number]
    last = [op for op in later if op is maps[-1] or sight.positions(op)[1] == size > 1][-1]
    behind = [
        op
        for op in later
        if last.number in trace.ancestors({op.number})
        and op is not last
        and op.name not in COPIES
        and sight.positions(op)[1] == 1
    ]
    shape = "x".join(str(maps[-1].output[axis]) for axis in axes or (2, 3))
    if size == 1 or not behind:
        return [], f"the last map, of {where(maps[-1])}, is {shape}: nothing averages it"
    if all_of_it_is_the_mean(network, sight, last, behind):
        return [plain(behind[0])], ""
    return [], f"the output sees more of the last map, {shape} of {where(last)}, than its mean"


def all_of_it_is_the_mean(network, sight, last, behind):
    axes, _ = sight.positions(last)
    noise = torch.randn(last.output, generator=torch.Generator().manual_seed(1))
    level = noise.mean(axes, keepdim=True)  # of each channel
    image = picture(network, sight.shape)
    watched, rough = {op.number for op in behind}, []

    def results(change):
        torch.default_generator.manual_seed(0)  # dropout that is never off draws the same
        if image.device.type == "cuda":
            torch.cuda.manual_seed(0)
        if image.device.type == "mps":
            torch.mps.manual_seed(0)
        kept = watched | {last.number}
        push = Push(sight.trace.names, last.number, change.to(image.device), kept)
        found = push.run(network, image).kept
        rough.append(push.rough)
        if found.keys() < kept:
            raise ValueError(
                f"{type(network).__name__}.forward does other things when it runs again, so it "
                "cannot be measured."
            )
        return found

    before = results(torch.zeros(last.output))
    size = float(before[last.number].std()) or 1.0  # a small change of large numbers is rounded off
    balanced = results(4 * size * (noise - level))
    raised = results(size * (level / level.abs().mean()).expand(last.output))
    exact = 0.05 if any(rough) else 1e-3
    for number in watched:
        moved = (balanced[number] - before[number]).abs().max()
        should = (raised[number] - before[number]).abs().max()
        if moved > exact * should:
            return False
    return True
