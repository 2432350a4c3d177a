"""What `train.py --list` prints."""


def print_list(models, recipes):
    """All networks and recipes, a line each.

    models: {name: class}, the first line of whose docstring says what it is.
    recipes: {name: Recipe}.
    """
    print("models")
    for name, network in models.items():
        title = (network.__doc__ or "").split(": ", 1)[-1].partition("\n")[0]
        print(f"  {name:9} {title}")
    print("recipes")
    for name, r in recipes.items():
        rate = f"{r.optimizer} lr {r.lr:g} {r.schedule}"
        print(f"  {name:9} {r.epochs} epochs, batch {r.batch_size}, {rate}, {r.augment}")
