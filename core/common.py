"""The ground that everything else stands on: errors that tell the user what to do."""


class TrainingError(RuntimeError):
    """A run cannot start or go on; the message says why and what to do."""
