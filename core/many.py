"""One function over many items: here, on local processes, or on the workers of a Dask cluster."""

import importlib
import multiprocessing
import pickle
import threading
import traceback
from concurrent.futures.process import BrokenProcessPool

from core.common import TrainingError, on_purpose

BREAKS = 3  # so many times in a row a process may die before those at work are tried one by one


def run_all(function, items, jobs=1, dask=None):
    """Yields (item, outcome) as they come: what `function(item)` returns, or the Exception of it.

    function: of a module that the processes can import; what it prints, they print.
    items: plain data, each of them another one.
    jobs: how many local processes, which share the cores (joblib's loky); with 1 it is this one.
    dask: instead of them the scheduler's address, e.g. "tcp://10.0.0.5:8786". An item whose worker
        dies goes to another one.

    Raises TrainingError where the engine is not installed or does not answer. An item that kills
    its process again and again has an error as its outcome; those beside it are done.
    """
    if dask:
        return _on_cluster(function, items, dask)
    return _locally(function, items, jobs) if jobs > 1 else _here(function, items)


def needed(module, option):
    """A module of requirements-cluster.txt."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise TrainingError(
            f"{option} needs {module}: python -m pip install -r requirements-cluster.txt"
        ) from None


def _here(function, items):
    for item in items:
        yield _outcome(function, item)


def _outcome(function, item, start_method=None):
    try:
        if start_method:  # loky has put its own, which no DataLoader can start workers by
            multiprocessing.set_start_method(start_method, force=True)
        return item, function(item)
    except Exception as error:
        return item, _carried(error) if start_method else error


def _carried(error):
    """`error`, with its traceback as a note; if no other process can be sent it, a TrainingError of
    its text.
    """
    where = "" if on_purpose(error) else "".join(traceback.format_tb(error.__traceback__))
    try:
        sent = pickle.loads(pickle.dumps(error))
    except Exception:
        sent = TrainingError(f"{type(error).__name__}: {error}")
    if where:
        sent.add_note(where)
    return sent


def _locally(function, items, jobs):
    joblib = needed("joblib", "--jobs")
    left, breaks, start_method = list(items), 0, multiprocessing.get_start_method()
    while left:
        calls = [joblib.delayed(_outcome)(function, item, start_method) for item in left]
        pool = joblib.Parallel(jobs, return_as="generator_unordered", batch_size=1)
        try:
            for item, outcome in pool(calls):
                left.remove(item)
                breaks = 0
                yield item, outcome
        except BrokenProcessPool:  # all that were at work are begun anew
            breaks += 1
            for item in left[:jobs] if breaks == BREAKS else ():  # one of these is to blame
                left.remove(item)
                yield item, _solo(joblib, function, item, start_method)
            breaks %= BREAKS


def _solo(joblib, function, item, start_method):
    """The outcome of an item with no other at work, whose fault it could be."""
    try:
        call = joblib.delayed(_outcome)(function, item, start_method)
        return joblib.Parallel(2)([call])[0][1]  # with 1 it were this process
    except BrokenProcessPool:
        return TrainingError("Its process was killed, again and again (too little memory?).")


def _on_cluster(function, items, address):
    distributed = needed("distributed", "--dask")
    try:
        client = distributed.Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"No Dask scheduler answers at {address} ({str(error).splitlines()[0]}); start one: "
            "dask scheduler, and give the tcp:// address that it prints."
        ) from None
    suspected = []
    with client:
        for item, outcome in _submitted(client, function, items):
            if isinstance(outcome, distributed.KilledWorker):
                suspected.append(item)  # or it waited behind the one that killed four workers
            else:
                yield item, outcome
        for item in suspected:
            yield from _submitted(client, function, [item])


def _submitted(client, function, items):
    as_completed = importlib.import_module("distributed").as_completed
    futures = {client.submit(_alone, function, item, pure=False): item for item in items}
    try:
        for future in as_completed(list(futures)):
            if future.cancelled():
                futures.clear()
                raise TrainingError(
                    "The Dask scheduler is gone; what is finished is kept. Start it, then repeat "
                    "the command."
                )
            error = future.exception()
            yield futures.pop(future), future.result() if error is None else error
    finally:
        if futures:
            _end(client, futures)


TURN = threading.Lock()


def _alone(function, item):
    """One item at a time, also in a worker of several threads: torch has one seed a process."""
    with TURN:
        return function(item)


def _end(client, futures):
    """Takes back what has not begun; what has ends with its worker, which its nanny renews."""
    keys = {future.key for future in futures}
    busy = [worker for worker, tasks in client.processing().items() if keys & set(tasks)]
    client.cancel(list(futures), force=True)
    if busy:
        client.restart_workers(busy, raise_for_error=False)
