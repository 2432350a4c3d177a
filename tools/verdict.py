"""What a submission's process has said, as a report: measured, judged, in one clear sentence.

Nothing that comes from there is believed unseen: each message has to fit its form, and what can be
computed here (accuracy, confusion, mistakes) is computed here, from the predictions.
"""

import dataclasses
import json
import math
import signal

import fastjsonschema
import numpy as np

from analysis import accuracy_rule
from core.arrays import confusion_matrix, mistakes
from tools.guard import KEPT, STARTING

SHOWN = 10  # mistakes
NUMBER = {"type": ["number", "null"]}
TEXT = {"type": "string", "maxLength": 2000}
RULE = {
    "type": "object",
    "properties": {"rule": TEXT, "measured": TEXT, "passed": {"type": "boolean"}},
    "required": ["rule", "measured", "passed"],
    "additionalProperties": False,
}
EPOCH = {
    "type": "object",
    "properties": {
        f"{part}_{what}": NUMBER for part in ("train", "test") for what in ("loss", "accuracy")
    },
    "required": ["train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds"],
    "additionalProperties": NUMBER,
}
FORM = {
    "type": "object",
    "properties": {
        "stage": {"enum": ["reading", "importing", "building", "measuring", "training", "testing"]},
        "network": TEXT,
        "parameters": {"type": "integer", "minimum": 1},
        "receptive_field": TEXT,
        "rules": {"type": "array", "items": RULE, "minItems": 1, "maxItems": 50},
        "device": TEXT,
        "whole_images": {"type": "boolean"},
        "contiguous": {"type": "boolean"},
        "epoch": EPOCH,
        "record": {"type": "object", "additionalProperties": {"type": ["number", "string"]}},
        "predictions": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}},
        "confidence": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}},
        "refused": TEXT,
        "kind": {"enum": ["memory", "writing", "size", "network", "error"]},
    },
    "additionalProperties": False,
    "minProperties": 1,
}
CHECK = fastjsonschema.compile(FORM)
DURING = {
    None: "before it began",
    "reading": "while the file was read",
    "importing": "while the file was imported",
    "building": "while the network was built",
    "measuring": "while the rules were measured on one image",
    "training": "in the training",
    "testing": "while the trained network was tested",
}


class Heard:
    """All that the process of a submission has said so far."""

    def __init__(self):
        self.stage, self.facts, self.history, self.spoiled = None, {}, [], False

    def add(self, line):
        """One line of JSON. Returns the message, or None where it has not the right form."""
        try:
            message = json.loads(line)
            CHECK(message)
            epoch = finite(message.pop("epoch", {}))
        except (ValueError, RecursionError, OverflowError):
            self.spoiled = True
            return None
        self.stage = message.pop("stage", self.stage)
        if epoch:
            self.history.append(epoch)
        self.facts |= message
        return message


def finite(epoch):
    """A loss that is no number is None in JSON."""
    return {k: v if v is None or math.isfinite(v) else None for k, v in epoch.items()}


def report_of(heard, ended, labels, epochs, allowed):
    """The part of a report that says what was found: see `tools.grade.grade`.

    heard: what the submission's process has said.
    ended: what the guard says of its end; see tools/guard.py.
    labels: of the test images, (N,).
    epochs: that the training should have.
    allowed: the limits, {"seconds", "memory", "processes"}.
    """
    facts = heard.facts
    report = {name: facts.get(name) for name in ("network", "parameters", "receptive_field")}
    report |= {"rules": facts.get("rules", []), "device": facts.get("device")}
    report |= {"history": heard.history, "accuracy": None, "standard_error": None}
    report |= {"seconds": round(ended["seconds"], 1), "memory": ended["memory"]}
    report |= {"output": ended["output"], "notes": notes(ended, facts)}
    problem = problem_of(heard, ended, len(labels), epochs, allowed)
    if problem:
        return report | {"verdict": "no grade", "reason": problem}
    seen = np.array(facts["predictions"], dtype=int)
    accuracy = float((seen == labels).mean())
    report |= {"accuracy": accuracy}
    report["rules"] = [*report["rules"], dataclasses.asdict(accuracy_rule(accuracy))]
    report |= {"standard_error": math.sqrt(accuracy * (1 - accuracy) / len(labels))}
    report |= {"confusion": confusion_matrix(labels, seen).tolist()}
    report |= {"mistakes": worst(labels, seen, facts["confidence"])}
    broken = [
        f"{rule['rule']} ({rule['measured']})" for rule in report["rules"] if not rule["passed"]
    ]
    count = len(report["rules"])
    if broken:
        verb = "is" if len(broken) == 1 else "are"
        reason = f"{len(broken)} of {count} rules {verb} not kept: {'; '.join(broken)}."
        return report | {"verdict": "fail", "reason": reason}
    return report | {"verdict": "pass", "reason": f"All {count} rules are kept."}


def worst(labels, predictions, confidence):
    """The most confident mistakes."""
    probabilities = np.zeros((len(labels), 10))
    probabilities[np.arange(len(labels)), predictions] = confidence
    return [
        {
            "image": int(index),
            "true": int(labels[index]),
            "predicted": int(predictions[index]),
            "confidence": float(confidence[index]),
        }
        for index in mistakes(labels, probabilities)[:SHOWN]
    ]


def notes(ended, facts):
    """What a teacher should know beside the verdict."""
    output, told = ended["output"], []
    if output["bytes"] > 2 * KEPT:
        told.append(
            f"It printed {output['lines']:,} lines ({output['bytes']:,} bytes); "
            "only the beginning and the end were kept."
        )
    if ended["changed"]:
        told.append(
            f"While it ran, files of the course were changed or made: {few(ended['changed'])}. "
            "Changed code is as it was again; look at the others."
        )
    if facts.get("whole_images"):
        told.append(
            "It takes images of 32x32 alone, so it was trained on whole images instead of the "
            "recipe's crops, which takes longer."
        )
    if facts.get("contiguous"):
        told.append(
            "It does not run in the memory order channels-last (a .view over a map?), so it was "
            "trained in torch's usual one, which may take longer."
        )
    return told


def few(names):
    more = f" and {len(names) - 9} more" if len(names) > 9 else ""
    return ", ".join(names[:9]) + more


def problem_of(heard, ended, images, epochs, allowed):
    """Why there is no grade, in one sentence; None where there is one."""
    facts, during = heard.facts, DURING[heard.stage]
    if heard.stage == "training" and heard.history:
        seen = heard.history[-1]["test_accuracy"]
        reached = "" if seen is None else f" (test accuracy then: {seen:.2%})"
        during = f"in the training, after {len(heard.history)} of {epochs} epochs{reached}"
    limit = STARTING if heard.stage is None else allowed["seconds"]
    gigabytes = f"{allowed['memory'] / 2**30:g} GiB"
    stopped = {
        "time": f"it was not done after {minutes(limit)}, the limit",
        "memory": f"it used more than {gigabytes} of memory, the limit",
        "processes": f"it started more than {allowed['processes']} processes, the limit",
        "output": "it printed more than anyone could read",
        "guard": "the process that watched over it was killed",
    }
    if ended["cause"]:
        return f"Stopped {during}: {stopped[ended['cause']]}."
    if "refused" in facts:
        first = {
            "memory": f"It asked for more memory than the limit, {gigabytes}: ",
            "writing": "It may not do that, as it may write into its own folder alone: ",
            "network": "It may not connect to other machines: ",
            "size": "It wrote a file that is larger than the limit: ",
        }
        said = facts["refused"].rstrip(".")
        return f"{first.get(facts.get('kind'), '')}{said} ({during})."
    if heard.spoiled:
        return f"Its process sent something that is no result, {during}."
    whole = len(heard.history) == epochs and "record" in facts
    counts = {len(facts.get(name, [])) for name in ("predictions", "confidence")}
    if whole and counts == {images}:
        return None
    return f"Its process ended {during}, {how(ended['ended'])}."


def how(status):
    if status < 0:
        known = {one.value: one.name for one in signal.Signals}
        return f"killed by the signal {known.get(-status, -status)}"
    return f"with the exit status {status} and without a result (as os._exit does)"


def minutes(seconds):
    return f"{seconds:g} s" if seconds < 60 else f"{round(seconds / 60, 1):g} min"
