"""Trains a network on CIFAR-10 and leaves a record of the run.

    python train.py --model net --recipe sprint    85 % on two CPU cores in a minute or five
    python train.py --list                         all models and recipes
    python train.py --model net --export onnx      the recorded network, for other programs
    torchrun --nproc-per-node 2 train.py --model net    one run on two processes

In a notebook: `model, record = fit("net", RECIPES["sprint"])`, then `evaluate(model, ...)`.

Choices are made with `validate`, on 5,000 training images held out. The test curve is drawn and
nothing is chosen by it: the accuracy that counts is the last epoch's.
"""

import contextlib
import dataclasses
import importlib
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from core import averaging, common, distributed
from core.arrays import checked_data
from core.checkpoint import (
    DAMAGE,
    fingerprint,
    identity_of,
    load_checkpoint,
    raise_if_temporary,
    read_tensors,
    save_checkpoint,
    save_weights,
)
from core.common import ROOT, TrainingError, find, write_json
from core.device import autocast as autocast, keep_freed_memory, pick_device, pick_precision
from core.export import export_onnx
from core.forward import (
    Evaluation,
    builder,
    check_finite,
    classify,
    evaluating,
    evaluation_batch,
    forward,
)
from core.listing import print_list
from core.optim import make_optimizer, make_schedule
from core.recipes import RECIPES, Recipe
from core.records import epoch_line, make_record, name_of, part_of, paths_of, read_record
from core.spread import broadcast_buffers, scale_for_ddp, wrap_ddp
from core.watching import as_kept
from dataset import DataError, View, held_out, load_cifar10, make_batches
from model import MODELS, count_parameters


def train_epoch(model, batches, optimizer, schedule, scaler, recipe, precision, progress=False):
    """One pass over the training images.

    Returns [mean loss, accuracy in 0..1], as seen during training, on augmented images.

    batches, scaler: of `dataset.make_batches`; a torch.amp.GradScaler, at work for float16 alone.
    precision: "float32", "bfloat16" or "float16".
    progress: show a bar, where the output is a terminal.
    """
    model.train()
    total, count = 0.0, 0
    # Elsewhere than on a terminal, in a notebook for one, a bar would be litter in the outputs.
    shown = progress and sys.stderr.isatty()
    title = f"epoch {batches.epoch + 1}"
    for images, labels in tqdm(batches, title, leave=False, disable=not shown, mininterval=1):
        if not recipe.channels_last:
            images = images.contiguous()  # (N, 3, H, W)
        loss, logits = forward(model, images, labels, recipe, precision)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(scale_for_ddp(loss, len(labels))).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        truth = labels if labels.ndim == 1 else labels.argmax(1)  # of a mixture its larger part
        correct = (logits.detach().argmax(1) == truth).sum()
        # The sums stay on the device: nobody waits for them. The last batch may be smaller.
        total = total + torch.stack([loss.detach() * len(labels), correct])
        count += len(labels)
    return distributed.mean(total, count).tolist()


def evaluate(model, images, labels, augment="none", precision="auto", flip=False, batch_size=None):
    """Classifies images, only normalised: an `Evaluation`. The model's mode and statistics stay.

    images, labels: uint8 (N, 32, 32, 3), and (N,) integers in 0..9.
    augment: images are normalised as this augmentation normalises them.
    precision: as in a `Recipe`.
    flip: average the logits with those of the mirrored image; to be reported apart.
    batch_size: None for what suits the device.

    Raises ValueError for other images, labels or logits, unknown names, a batch_size below 1.
    """
    device = next(model.parameters()).device
    precision = pick_precision(device, precision)
    size = evaluation_batch(device) if batch_size is None else batch_size
    batches = make_batches(images, labels, size, augment, train=False, device=device)
    logits, truth = classify(model, batches, precision, flip)
    predictions = logits.argmax(1)
    return Evaluation(
        F.cross_entropy(logits, truth).item(),
        (predictions == truth).cpu().double().mean().item(),  # CUDA multiplies by a rounded 1/N
        logits.softmax(1).cpu().numpy(),
        predictions.cpu().numpy(),
    )


def fit(
    model,
    recipe,
    data=None,
    *,
    device=None,
    validate=False,
    checkpoint=None,
    resume=False,
    progress=True,
    make_batches=make_batches,
    make_optimizer=make_optimizer,
    make_schedule=make_schedule,
    train_epoch=train_epoch,
    on_epoch=None,
):
    """Trains a fresh network by `recipe` and returns (model, record), the model evaluating.

    model: a name in MODELS, or anything that builds a network when called, e.g. your class; it is
        built here, after seeding, so that a cell run twice trains anew.
    recipe: a `Recipe`.
    data: a `Cifar10`; None loads it.
    device: "cpu", "cuda", "mps", or None for the best there is.
    validate: hold out 5,000 training images and report on them instead of on the test set.
    checkpoint: a path, written after every epoch.
    resume: go on from `checkpoint`; on the same CPU to the bit-identical end, on a GPU nearly.
    progress: print a line an epoch.
    make_batches, make_optimizer, make_schedule, train_epoch: what is done in the place of this
        program's own functions of these names. A variant is an argument.
    on_epoch: called with (model, history) after every epoch; the record keeps what it adds.

    The record (see core.records.make_record) has `seconds`: training alone, from the arrays in
    memory to the trained network, without the evaluations.

    Raises ValueError (unknown names, no Recipe, no network, wrong logits, no Cifar10 or too few
    images to hold 5,000 out, what the network, OneCycle or the record cannot take),
    TrainingError (checkpoint, device, folder, a loss that is no number), DataError (no data).
    """
    build = builder(model, MODELS)
    name = name_of(model)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"recipe is {recipe!r}; it must be a Recipe, e.g. RECIPES['sprint'].")
    device = pick_device(device)
    precision = pick_precision(device, recipe.precision)
    asked, recipe = recipe, recipe.on(device)
    if device.type == "cpu":
        keep_freed_memory()
    progress = progress and distributed.rank() == 0
    part = "val" if validate else "test"
    data = load_cifar10(progress=progress) if data is None else checked_data(data, not validate)
    images, labels, test_images, test_labels = data = held_out(data) if validate else data

    arrays = fingerprint(data) if checkpoint else ""
    importlib.import_module("torch._dynamo")  # else the first optimiser imports it: no training
    clock = time.perf_counter()
    torch.manual_seed(recipe.seed)
    network = build().to(device)
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    chosen = (recipe.batch_size, recipe.augment, recipe.engine)
    batches = make_batches(images, labels, *chosen, seed=recipe.seed, device=device)
    optimizer = make_optimizer(network, recipe)
    schedule = make_schedule(optimizer, recipe, len(batches))
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    variants = (make_batches, make_optimizer, make_schedule, train_epoch)
    identity = identity_of(name, asked, validate, network, arrays, variants)
    average = averaging.follow(network, optimizer, recipe.ema)
    states = dict(model=network, optimizer=optimizer, schedule=schedule, scaler=scaler)
    states |= dict(average=average) if recipe.ema else {}
    judged = average.module if recipe.ema else network
    history = load_checkpoint(checkpoint, identity, states, device, precision) if resume else []
    setup = time.perf_counter() - clock

    trained = wrap_ddp(network)
    for epoch in range(len(history), recipe.epochs):
        distributed.reseed(recipe.seed, epoch)
        clock = time.perf_counter()
        rate = schedule.get_last_lr()[-1]
        batches.epoch = epoch
        if recipe.views:
            batches.view = View(*recipe.view_at(epoch))
        if recipe.mixup:
            batches.mixup = recipe.mixup_at(epoch)
        loss, accuracy = train_epoch(
            trained, batches, optimizer, schedule, scaler, recipe, precision, progress
        )
        judged = averaging.settled(average, batches, recipe, precision)
        seconds = time.perf_counter() - clock + (setup if epoch == 0 else 0)
        check_finite(loss, epoch, recipe)
        clock = time.perf_counter()
        test_loss, test_accuracy = judge(judged, test_images, test_labels, recipe, precision)
        check_finite(test_loss, epoch, recipe, f"{part} loss")
        learnt = {"lr": rate, "train_loss": loss, "train_accuracy": accuracy}
        tested = {f"{part}_loss": test_loss, f"{part}_accuracy": test_accuracy}
        spent = {"seconds": seconds, "evaluation_seconds": time.perf_counter() - clock}
        history.append(learnt | tested | spent)
        if progress:
            tqdm.write(epoch_line(history, recipe.epochs))
        if on_epoch:
            with evaluating(judged):
                on_epoch(judged, history)
        history[-1] = as_kept(history[-1])
        if checkpoint and distributed.rank() == 0:
            save_checkpoint(checkpoint, identity, states, history, device, precision)
    _, flipped = judge(judged, test_images, test_labels, recipe, precision, flip=True)
    size = count_parameters(judged)
    return judged.eval(), make_record(name, size, asked, device, precision, part, history, flipped)


def judge(network, images, labels, recipe, precision, flip=False):
    """(loss, accuracy) of the images; each process judges its share of them."""
    broadcast_buffers(network)
    images, labels = distributed.shard(images), distributed.shard(labels)
    seen = evaluate(network, images, labels, recipe.augment, precision, flip)
    return distributed.judged(seen, labels, network)


def train_and_record(model, recipe, name, device=None, *, resume=False, description="", **options):
    """Trains the run `name`, writes its record and weights; see core.records.paths_of.

    description: what is special about it, in words, for the record.
    options: of `fit`. Returns the record. Raises what `fit` raises.
    """
    paths = paths_of(name, ROOT)
    if distributed.rank() == 0:
        common.check_writable(paths)  # now, not after the training
    network, record = fit(
        model, recipe, device=device, checkpoint=paths.checkpoint, resume=resume, **options
    )
    record |= {"description": description} if description else {}
    if distributed.rank() == 0:
        paths.record.unlink(missing_ok=True)  # it is not of the weights that come now
        save_weights(paths.weights, network, record["model"])
        write_json(paths.record, record, common.RESUMED)
        paths.checkpoint.unlink(missing_ok=True)  # else a run done anew would begin at this end
    return record


def load_weights(path):
    """The network of a file in weights/: (model, record of its run), evaluating, on the CPU.

    weights/<name>.pt belongs to results/<name>.json. Raises TrainingError for any other file.
    """
    path, folder = Path(path).resolve(), (ROOT / "weights").resolve()  # it may be a link
    if not path.is_relative_to(folder):
        raise TrainingError(f"{path} lies outside {folder}, so there is no record of its run.")
    recorded = ROOT / "results" / path.relative_to(folder).with_suffix(".json")
    try:
        saved = read_tensors(path)
        network = MODELS[saved["model"]]()
        network.load_state_dict(saved["state"])  # some are halves
        record = read_record(recorded) if recorded.exists() else {"model": None}
        if record["model"] != saved["model"]:
            raise ValueError("the record is another network's")
    except DAMAGE as error:
        raise_if_temporary(error, path)
        raise TrainingError(
            f"{path} holds no weights of a network in MODELS ({type(error).__name__}), or has no "
            "record; train the model anew, or build it as its table in experiments/ does."
        ) from None
    return network.eval(), record


def parse(arguments):
    parser = common.Parser("train.py", description=__doc__)
    add = parser.add_argument
    add("--model", default="net", help="a network in model.MODELS (default: net)")
    add("--recipe", help="a recipe in RECIPES (default: the model's own; sprint for net)")
    add("--seed", type=int, default=0, help="weights, order and augmentation follow from it")
    add("--epochs", type=common.whole_number, help="not the recipe's; a schedule of steps stays")
    add("--device", help="cpu, cuda or mps (default: the best there is)")
    add("--validate", action="store_true", help="hold out 5,000 training images: for choosing")
    add("--resume", action="store_true", help="go on from the last epoch, to the same result")
    add("--list", action="store_true", help="print all models and recipes")
    add("--export", choices=["onnx"], help="write the recorded network as an ONNX file")
    return parser.parse_args(arguments)


def asked(options):
    """The run that the command line asks for: (its name, its recipe)."""
    name = options.recipe or (options.model if options.model in RECIPES else "sprint")
    find(MODELS, options.model, "model")
    recipe = dataclasses.replace(find(RECIPES, name, "recipe"), seed=options.seed)
    if options.epochs:
        recipe = dataclasses.replace(recipe, epochs=options.epochs)
        name += f"-{options.epochs}epochs"
    return f"{options.model}-{name}{'-val' * options.validate}-seed{options.seed}", recipe


def main(arguments=None):
    options = parse(arguments)
    if options.list:
        return print_list(MODELS, RECIPES)
    try:
        with distributed.joined(options.device):
            run(options)
    except (ValueError, TrainingError, DataError) as error:
        if isinstance(error, ValueError) and not common.on_purpose(error):
            raise  # a fault in a network, for one
        sys.exit(f"train.py: {error}")
    except KeyboardInterrupt:
        if options.export or not paths_of(asked(options)[0], ROOT).checkpoint.exists():
            sys.exit("\ntrain.py: stopped; there is nothing to resume.")
        again = " ".join([w for w in arguments or sys.argv[1:] if w != "--resume"] + ["--resume"])
        start = "torchrun … train.py" if distributed.launched() else f"python {sys.argv[0]}"
        sys.exit(f"\ntrain.py: stopped; finished epochs are kept, go on: {start} {again}")


def run(options):
    """Trains, or exports, as the command line asks, and says where the result is."""
    name, recipe = asked(options)
    if options.export:
        network, record = load_weights(paths_of(name, ROOT).weights)
        path = paths_of(name, ROOT).weights.with_suffix(".onnx")
        export_onnx(network, record["recipe"]["augment"], path)
        print(f"weights/{path.name}: uint8 images (N, 32, 32, 3) in, logits (N, 10) out")
        return
    chosen = dict(validate=options.validate, resume=options.resume)
    first = distributed.rank() == 0
    with common.claimed(paths_of(name, ROOT).lock, name) if first else contextlib.nullcontext():
        if first and not options.resume:
            common.tell_of_unfinished(paths_of(name, ROOT).checkpoint)
        record = train_and_record(options.model, recipe, name, options.device, **chosen)
    if not first:
        return
    accuracy, flipped = (record[f"{part_of(record)}_accuracy{end}"] for end in ("", "_flip"))
    print(
        f"{accuracy:.2%} at the last epoch ({flipped:.2%} with the mirrored view averaged in), "
        f"{record['seconds']:.1f} s of training"
    )
    print(f"record: results/{name}.json   weights: weights/{name}.pt")


if __name__ == "__main__":
    main()
