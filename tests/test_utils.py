import itertools
import json

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import Tiny

import model
import utils
from dataset import CLASSES, MEAN, STD


@pytest.fixture(autouse=True)
def no_windows(monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    yield
    plt.close("all")


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def test_denormalise_undoes_the_normalisation(cifar):
    images = cifar.test_images[:5]
    batch = (
        torch.tensor(images).permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN).view(3, 1, 1)
    ) / torch.tensor(STD).view(3, 1, 1)
    assert np.array_equal(utils.denormalise(batch), images)


def test_samples_stand_in_the_row_of_their_class(cifar):
    picked = utils.show_samples(cifar.train_images, cifar.train_labels, each=3)
    assert (cifar.train_labels[picked] == np.arange(10)[:, None]).all()
    axes = plt.gcf().axes
    assert [axis.get_ylabel() for axis in axes[::3]] == list(CLASSES)
    assert np.array_equal(axes[4].images[0].get_array(), cifar.train_images[picked[1, 1]])


def test_augmentation_strip_shows_differing_draws(cifar):
    draws = utils.show_augmentation(cifar.train_images[0], ("flip", "standard"), draws=6)
    assert draws.shape == (2, 6, 32, 32, 3)
    assert draws.dtype == np.uint8
    assert len({draw.tobytes() for draw in draws[1]}) > 3
    assert np.array_equal(plt.gcf().axes[1].images[0].get_array(), draws[0, 0])


def record(accuracies, seconds=1.0, kind="test"):
    history = [
        {
            "train_loss": 1.0,
            "train_accuracy": 0.5,
            f"{kind}_loss": 1.1,
            f"{kind}_accuracy": accuracy,
            "seconds": seconds,
        }
        for accuracy in accuracies
    ]
    return {
        "model": "net",
        "parameters": 1234,
        "recipe": {"epochs": len(accuracies)},
        "seed": 0,
        "device": "cpu",
        "precision": "float32",
        "seconds": seconds * len(accuracies),
        f"{kind}_accuracy": accuracies[-1],
        f"{kind}_accuracy_flip": accuracies[-1] + 0.01,
        "history": history,
    }


@pytest.mark.parametrize("kind", ["test", "val"])
def test_curves_draw_the_record(kind):
    series = utils.plot_curves(record([0.5, 0.9], kind=kind))
    assert series[f"{kind}_accuracy"] == [0.5, 0.9]
    lines = plt.gcf().axes[1].lines
    assert list(lines[1].get_ydata()) == [0.5, 0.9]
    assert "90.00%" in titles(plt.gcf())[1]


def test_confusion_matrix_by_hand():
    labels, predictions = np.array([0, 0, 1, 9]), np.array([0, 3, 1, 8])
    counts = utils.confusion_matrix(labels, predictions)
    assert counts.sum() == 4
    assert [counts[0, 0], counts[0, 3], counts[1, 1], counts[9, 8]] == [1, 1, 1, 1]


def test_confusion_picture_has_the_accuracy_of_each_class():
    labels = np.repeat(np.arange(10), 10).astype(np.uint8)
    predictions = labels.astype(np.int64)
    predictions[:3] = 1  # class 0: 70 %
    utils.plot_confusion(labels, predictions)
    bars = [bar.get_width() for bar in plt.gcf().axes[1].patches]
    assert bars == pytest.approx([70] + 9 * [100])
    assert "97.00 %" in titles(plt.gcf())[1]


def test_mistakes_are_wrong_and_the_most_confident_come_first(cifar):
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(10), 200)
    labels = cifar.test_labels[:200]
    shown = utils.show_mistakes(cifar.test_images[:200], labels, probabilities, count=7)
    confidence = probabilities[shown].max(1)
    assert (probabilities[shown].argmax(1) != labels[shown]).all()
    assert (np.diff(confidence) <= 0).all()
    wrong = probabilities.argmax(1) != labels
    assert confidence[0] == probabilities[wrong].max()
    assert len(utils.mistakes(labels, probabilities)) == wrong.sum()
    first = plt.gcf().axes[0]
    assert np.array_equal(first.images[0].get_array(), cifar.test_images[shown[0]])
    assert CLASSES[labels[shown[0]]] in first.get_title()
    assert f"{confidence[0]:.0%}" in first.get_title()


def test_no_mistakes_is_no_error(cifar):
    labels = cifar.test_labels[:5]
    assert len(utils.show_mistakes(cifar.test_images[:5], labels, np.eye(10)[labels])) == 0


def test_receptive_field_picture(cifar):
    fields = utils.show_receptive_field(
        model.layers(model.MODELS["compact"]()), cifar.test_images[0]
    )
    assert list(fields.values()) == sorted(fields.values())
    assert max(fields.values()) == 55
    assert [patch.get_width() for patch in plt.gcf().axes[0].patches] == sorted(
        set(fields.values())
    )


def test_records_are_grouped_by_run_and_averaged(tmp_path):
    for seed, accuracy in enumerate((0.85, 0.87)):
        content = record([0.5, accuracy]) | {"seed": seed}
        (tmp_path / f"net-sprint-seed{seed}.json").write_text(json.dumps(content))
    (tmp_path / "net-sprint-val-seed0.json").write_text(json.dumps(record([0.5], kind="val")))
    groups = utils.load_records(root=tmp_path)
    assert {name: len(records) for name, records in groups.items()} == {
        "net-sprint": 2,
        "net-sprint-val": 1,
    }
    table = utils.results_table(groups)
    assert (
        "| `net-sprint` | 1,234 | 2 | 86.00 ± 1.41 (n = 2) | 85.00 | 87.00 ± 1.41 (n = 2) |"
        in table
    )
    assert "val" not in table


def runs(*accuracies, seconds=2.0, **more):
    return [
        record([0.5, accuracy], seconds / 2, kind="val") | {"seed": seed} | more
        for seed, accuracy in enumerate(accuracies)
    ]


def test_effect_is_the_difference_with_students_interval():
    found = utils.effect(runs(0.90, 0.91, 0.92), runs(0.80, 0.81, 0.82))
    half = (
        2.7764 * (1 / 3 + 1 / 3) ** 0.5
    )  # t(0.975, 4 degrees of freedom) times the standard error; pooled deviation: 1 point
    assert (found.points, found.low, found.high) == pytest.approx(
        (10, 10 - half, 10 + half), abs=1e-3
    )
    assert found.measured
    assert str(found) == "+10.00 (+7.73 to +12.27)"
    assert not utils.effect(runs(0.80, 0.82), runs(0.81, 0.82)).measured
    alone = utils.effect(runs(0.9), runs(0.8, 0.8))
    assert (alone.measured, str(alone)) == (False, "+10.00 (n = 1)")


def test_changes_name_what_differs():
    groups = {
        "base": runs(0.80, 0.81, what="nothing"),
        "longer": runs(0.90, 0.92, what="more", seconds=4.0),
    }
    table = utils.changes_table(groups, "base").splitlines()
    assert (
        table[2]
        == "| `longer` | more | 91.00 ± 1.41 (n = 2) | +10.50 (+5.69 to +15.31) | 4.0 ± 0.0 (n = 2) |"
    )
    assert table[3] == "| `base` | nothing | 80.50 ± 0.71 (n = 2) |  | 2.0 ± 0.0 (n = 2) |"


def test_findings_keep_apart_what_was_measured_and_what_was_not():
    groups = {
        "base": runs(0.8, 0.81, what="-"),
        "worse": runs(0.7, 0.71, what="a"),
        "same": runs(0.8, 0.81, what="b", seconds=5.0),
    }
    lines = utils.findings(groups, "base").splitlines()
    assert lines == [
        "* a: **-10.0 points** (-13.0 to -7.0), +0 s; 70.5 ± 0.7 % (n = 2)",
        "* no effect on the accuracy was measured: b (+0.0, +3 s; n = 2)",
    ]
    assert (
        utils.findings(groups, "base", seconds=False).splitlines()[0]
        == "* a: **-10.0 points** (-13.0 to -7.0); 70.5 ± 0.7 % (n = 2)"
    )


def test_plot_effects_shows_the_best_first():
    groups = {
        "worse": runs(0.7, 0.72),
        "base": runs(0.8, 0.81),
        "better": runs(0.9, 0.91, seconds=5.0),
    }
    effects = utils.plot_effects(groups, "base")
    assert list(effects) == ["better", "worse"]
    assert effects["better"][0].points == pytest.approx(10)
    assert effects["better"][1] == pytest.approx(3)
    assert len(plt.gcf().axes) == 2
    assert utils.plot_effects(groups, "base", seconds=False) == effects
    assert [axis.get_xlabel()[:6] for axis in plt.gcf().axes] == ["points"]


def test_race_finds_the_first_crossing():
    runs = {
        "a": [record([0.5, 0.86, 0.84], 10.0), record([0.5, 0.5, 0.9], 10.0)],
        "b": [record([0.5])],
    }
    assert utils.plot_race(runs) == {"a": [20.0, 30.0], "b": [None]}


def test_pareto_draws_our_means_and_others_points_and_no_label_on_another():
    ours = {
        name: [record([0.5, a]) | {"parameters": n} for a in (0.90, 0.92)]
        for name, n in (("one", 150_000), ("two", 152_000))
    }
    drawn = utils.plot_pareto(ours, utils.published())
    assert drawn["one"] == (150_000, pytest.approx(91))
    assert drawn["cifar10-tiniest"] == (97_530, pytest.approx(94.6))
    plt.gcf().canvas.draw()
    boxes = [label.get_window_extent() for label in plt.gca().texts]
    assert len(boxes) == len(drawn) == 2 + len(utils.published())
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_the_longest_training_of_a_network_is_taken():
    groups = {
        "a-50epochs": [record([0.5] * 3)],
        "a": [record([0.5] * 2)],
        "b": [record([0.6]) | {"model": "wide"}],
    }
    groups["val"] = [record([0.5] * 9, kind="val")]
    assert utils.networks(groups) == {"wide": groups["b"], "net": groups["a-50epochs"]}


def test_the_record_is_the_last_epochs_mean_beside_the_best_published_within_the_budget():
    runs = [
        record([0.95, accuracy], 60.0) | {"parameters": 190_000, "device": "cpu: X, 1 thread"}
        for accuracy in (0.91, 0.93)
    ]
    text = utils.most_accurate({"frontier-frontier": runs})
    assert "**92.00 ± 1.41 % (n = 2) on the test set with 190,000 parameters**" in text
    assert "2 epochs, 2 minutes of training on 1 CPU core" in text
    assert "94.6 % (cifar10-tiniest" in text


def test_bad_records_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.py writes them"):
        utils.load_records(root=tmp_path)
    (tmp_path / "x-seed0.json").write_text("{}")
    with pytest.raises(ValueError, match=r"x-seed0\.json is not a record"):
        utils.load_records(root=tmp_path)


def test_mean_std_says_n():
    assert utils.mean_std([0.5], 100) == "50.00 (n = 1)"
    assert utils.mean_std([1, 3]) == "2.00 ± 1.41 (n = 2)"


def test_fill_replaces_between_markers_only():
    assert (
        utils.fill("a\n<!-- x -->\nold\n<!-- /x -->\nb", "x", "new")
        == "a\n<!-- x -->\nnew\n<!-- /x -->\nb"
    )
    with pytest.raises(ValueError, match="markers"):
        utils.fill("a", "x", "new")


def test_layers_of_a_learners_network_draw_too(cifar):
    assert utils.show_receptive_field(model.layers(Tiny()), cifar.test_images[0]) == {"conv": 3}
