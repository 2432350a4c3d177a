"""The receptive field of every map of a network, measured: what of the image can reach its centre?

    sight = Sight(network, follow(network, shape), shape)
    sight.field(number)    of the map that operation `number` of the trace made

Pixels outside a window of the image are set to NaN, "not a number". What is computed from a NaN is
NaN, whatever the weights; so what stays a number at the centre of a map depends on nothing outside
the window. The smallest such window is found by bisection, each side for itself. (An old trick of
those who debug array programs, where it finds reads of memory that was never filled.) On an image
as large as the image that a network is made for, a large field would stick out; so the image is
made wider, or higher, until every window of the network fits.
"""

import math
from dataclasses import dataclass

import torch

from core.probing import Probe
from core.tracing import picture

LARGEST = 2048  # pixels of a side of an image to measure with


@dataclass(frozen=True)
class Field:
    """height, width: in input pixels.

    limit: empty where they are measured exactly; STACKED where they could not be measured, and are
        what the windows one after the other come to; else why they are at least that.
    """

    height: int = 1
    width: int = 1
    limit: str = ""

    def __str__(self):
        same = self.height == self.width
        size = str(self.width) if same else f"{self.height} high and {self.width} wide"
        if not self.limit:
            return size
        if self.limit == STACKED:
            return f"{size}, {STACKED}: {FIXED}"
        return f"at least {size}: {self.limit}"

    @property
    def side(self):
        return max(self.height, self.width)

    def __or__(self, other):
        """Of what looks at both. A limit of either is one of both."""
        height, width = max(self.height, other.height), max(self.width, other.width)
        limit = self.limit if self.limit not in ("", STACKED) else other.limit or self.limit
        return Field(height, width, limit)


ALL = "it sees all of an image of that size"  # through attention, or an average that is fed back
STACKED = "by arithmetic"
FIXED = "the network takes no larger image, or computes otherwise on it"


class Sight:
    """Measures the fields of a `Trace`. Use it inside `undisturbed`.

    A map that grows with the image is measured on one that is large enough; any other, as after an
    Upsample to a fixed size, at `shape`, (C, H, W).
    """

    def __init__(self, network, trace, shape):
        self.trace, self.shape = trace, shape
        self.wide, self.small, self.known = [], [], {}
        self.jumps = jumps_in(trace, shape)
        for axis in (0, 1):
            larger = list(shape)
            larger[1 + axis] = self.needed(axis)
            self.wide.append(Ruler(network, trace, tuple(larger), axis))
            self.small.append(Ruler(network, trace, tuple(shape), axis))

    def needed(self, axis):
        """How many pixels of the image suffice for all windows, along an axis.

        No field is larger than if all windows came one after the other; in a network with lopsided
        padding it may lie wholly on one side.
        """
        last = max(self.trace.operations, default=0)
        coarsest = max((steps[axis] for steps in self.jumps.values()), default=1)
        side = self.shape[1 + axis]
        return min(
            side * max(2, math.ceil(2 * (self.reach(axis, last) + coarsest) / side)), LARGEST
        )

    def reach(self, axis, last):
        """The side of the field if all windows up to operation `last` came one after the other."""
        return 1 + sum(
            (taps(op)[axis] - 1) * self.jumps[number][axis]
            for number, op in self.trace.operations.items()
            if number <= last
        )

    def stacked(self, number, axis):
        """The side of the field by arithmetic: of the windows along the longest way to `number`.

        0 where a map is enlarged on the way, as what is looked at then is not known exactly.
        """
        way, sides = self.trace.ancestors({number}), {}
        for key in sorted(way):
            op = self.trace.operations[key]
            if resamples(op) or op.transposed:
                return 0
            before = max((sides[source] for source in op.inputs), default=1)
            sides[key] = before + (taps(op)[axis] - 1) * self.jumps[key][axis]
        return sides[number]

    def positions(self, operation):
        """Which dimensions of the result run over positions of a map, and how many there are."""
        grown = [ruler.grown(operation.number) for ruler in self.wide]
        axes = sorted(set(grown[0] or []) | set(grown[1] or []))
        if None in grown or not axes:
            axes = [2, 3] if self.is_fixed_map(operation) else []
        return axes, math.prod(operation.output[axis] for axis in axes)

    def is_fixed_map(self, operation):
        """Whether the result is a map that does not grow with the image: made so, or kept so."""
        shape = operation.output
        if len(shape) != 4 or min(shape[2:]) == 1:
            return False
        if operation.kernel or resamples(operation):
            return True
        sources = [self.trace.operations[number] for number in operation.inputs]
        return operation.before[2:] == shape[2:] and (
            not sources or any(self.positions(source)[0] == [2, 3] for source in sources)
        )

    def is_map(self, operation):
        """Whether the result is a map: more than one position, or made by a convolution."""
        if len(operation.output) != 4 or operation.pools_all or self.is_of_pairs(operation):
            return False
        axes, count = self.positions(operation)
        if count > 1 and len(axes) == 2:
            return True
        return operation.convolves and any(
            self.is_map(self.trace.operations[number]) for number in operation.inputs
        )

    def is_of_pairs(self, operation):
        """Whether it has a row and a column for each position: attention, from one to another."""
        return any(len(ruler.grown(operation.number) or []) > 1 for ruler in self.wide)

    def field(self, numbers):
        """The `Field` of what comes from these operations: of the last maps before them.

        A map of a fixed size is measured on a small image, so what comes before it counts, too.
        """
        found, waiting, behind = Field(), list(numbers), set()
        while waiting:
            number = waiting.pop()
            operation = self.trace.operations[number]
            here = self.is_map(operation)
            if here:
                found |= self.measured(number)
                if all(len(ruler.grown(number) or []) == 1 for ruler in self.wide):
                    continue
            if number not in behind:
                behind.add(number)
                waiting.extend(operation.inputs)
                if operation.multiplies and not here:
                    found |= self.all_seen(number)
        return found

    def all_seen(self, number):
        """The `Field` of attention among the positions of a map without rows."""
        if not all(ruler.grown(number) for ruler in self.wide):
            return Field(*self.shape[1:], ALL)
        side = min(ruler.side for ruler in self.wide)
        return Field(side, side, ALL)

    def measured(self, number):
        if number not in self.known:
            (height, one), (width, two) = (self.span(number, axis) for axis in (0, 1))
            self.known[number] = Field(height, width, one or two)
        return self.known[number]

    def span(self, number, axis):
        """Pixels along an axis, and the limit, see `Field`."""
        wide, small = self.wide[axis], self.small[axis]
        if len(wide.grown(number) or []) == 1:
            low, high = wide.edges(number)
            return high - low, "" if low > 0 and high < wide.side else ALL
        low, high = small.edges(number)
        inside = low > 0 and high < small.side and self.reach(axis, number) <= small.side
        if inside:
            return high - low, ""
        stacked = self.stacked(number, axis)
        if stacked >= high - low:
            return round(stacked), STACKED
        return high - low, FIXED if wide.grown(number) is None else ALL


def resamples(operation):
    return operation.name.startswith("upsample")


def taps(operation):
    """Rows and columns that an operation's window spans, holes included."""
    if operation.pools_all or len(operation.kernel) != 2:
        return (4, 4) if resamples(operation) else (1, 1)  # no interpolation looks at more
    steps = zip(operation.kernel, operation.dilation, strict=True)
    return tuple((kernel - 1) * dilation + 1 for kernel, dilation in steps)


def jumps_in(trace, shape):
    """Input pixels between neighbours of what each operation looks at, {number: (rows, columns)}.

    Rather too many than too few, where a map was made larger or views were taken of it.
    """
    before, after = {}, {}
    for number, op in trace.operations.items():
        outputs = [trace.operations[source].output for source in op.inputs] or [(1, *shape)]
        found = [after[source] for source in op.inputs] or [(1, 1)]
        before[number] = tuple(
            max(seen(op, axis, *pair) for pair in zip(outputs, found, strict=True))
            or shape[1 + axis] / op.before[2 + axis]
            for axis in (0, 1)
        )
        after[number] = tuple(before[number][axis] * coarsened(op, axis) for axis in (0, 1))
    return before


def seen(operation, axis, output, jumps):
    """The jump of what an operation looks at, made with jumps `jumps`; 0: not to be told."""
    if len(operation.before) == 4 != len(output):
        return 0
    many = len(operation.before) == 4 and output[2 + axis] // operation.before[2 + axis]
    return jumps[axis] * max(1, many)  # a slice may have left out some


def coarsened(operation, axis):
    """By how much the jump grows in an operation."""
    if resamples(operation) and len(operation.before) == 4:
        return operation.before[2 + axis] / operation.output[2 + axis]
    if operation.pools_all or operation.transposed or len(operation.stride) != 2:
        return 1
    return operation.stride[axis]


class Ruler:
    """Finds the edges of fields along one axis (0: rows, 1: columns) of images of one size."""

    def __init__(self, network, trace, shape, axis):
        self.network, self.trace, self.axis = network, trace, axis
        self.side = shape[1 + axis]
        self.image = picture(network, shape)
        self.clean = Probe(trace.names).run(network, self.image)
        self.centres = {number: self.centre(number) for number in trace.operations}
        self.centres = {number: centre for number, centre in self.centres.items() if centre}
        self.answers = {}

    def grown(self, number):
        """The dimensions in which a result is larger here than in the trace; None: not reached."""
        shape, usual = self.clean.shapes.get(number), self.trace.operations[number].output
        if shape is None or len(shape) != len(usual):
            return None
        return [axis for axis, size in enumerate(shape) if size != usual[axis]]

    def centre(self, number):
        """Dimension and index of the middle of a map; None for what is no map."""
        grown, shape = self.grown(number), self.clean.shapes.get(number)
        if grown is None or len(shape) != 4:
            return None
        axis = grown[0] if grown else 2 + self.axis
        return axis, shape[axis] // 2

    def edges(self, number):
        """The first row (column) that the centre of a map sees, and the first after the last."""

        def first(reached, low, high):
            """Where NaN begins to arrive: at `low` it does not, at `high` it does."""
            while abs(high - low) > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if reached(middle) else (middle, high)
            return low

        before = first(lambda end: self.reaches(number, slice(0, end)), 0, self.side)
        after = first(lambda start: self.reaches(number, slice(start, None)), self.side, 0)
        return before, after

    def reaches(self, number, lines):
        """Whether NaN in these rows (columns) of the image reaches the centre of a map."""
        key = (lines.start, lines.stop)
        if key not in self.answers:
            image = self.image.clone()
            image[0].movedim(1 + self.axis, 0)[lines] = torch.nan
            probe = Probe(self.trace.names, self.clean, self.centres).run(self.network, image)
            self.answers[key] = {n: bool(found) for n, found in probe.found.items()}
        return self.answers[key].get(number, True)
