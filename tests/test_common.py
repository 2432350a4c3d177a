"""Files are written whole or not at all; unknown names get the nearest."""

import contextlib
import os

import pytest

from core.common import (
    ClaimedError,
    TrainingError,
    check_writable,
    claimed,
    find,
    on_purpose,
    write_atomically,
)


def test_nothing_half_written_on_a_full_disk(tmp_path):
    def full(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "record.json").write_text("old")
    with pytest.raises(TrainingError, match="No space left on device"):
        write_atomically(tmp_path / "record.json", full)
    assert [(path.name, path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()] == [
        ("record.json", "old")
    ]
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="Cannot write"):
        write_atomically(tmp_path / "file" / "record.json", full)


def test_what_a_killed_process_left_is_cleared_by_the_next_start(tmp_path):
    """It may have been killed while it wrote the file, or while it tried whether it could."""
    for name in (".run.json-abc.partial", ".run.test-abc.partial", "run.test"):
        (tmp_path / name).touch()
    (tmp_path / ".other.json-abc.partial").touch()  # of a process that may be alive
    check_writable([tmp_path / "run.json"])
    assert [path.name for path in tmp_path.iterdir()] == [".other.json-abc.partial"]


def test_an_unknown_name_gets_the_nearest_or_all():
    table = {"sprint": 1, "standard": 2}
    assert find(table, "sprint", "recipe") == 1
    with pytest.raises(ValueError, match="Unknown recipe 'sprnt'; did you mean sprint"):
        find(table, "sprnt", "recipe")
    with pytest.raises(ValueError, match="Unknown recipe 'x'; known: sprint, standard"):
        find(table, "x", "recipe")


def test_nobody_holds_a_lock_whose_file_is_gone(tmp_path, monkeypatch):
    """Else a third one makes the file anew, and two hold it: the first ends while the second has
    opened the file, and has not locked it yet.
    """
    lock, opened = tmp_path / "it.lock", os.open
    first = claimed(lock, "it")
    first.__enter__()

    def slowly(path, *more, **options):
        found = opened(path, *more, **options)
        monkeypatch.undo()
        first.__exit__(None, None, None)
        return found

    monkeypatch.setattr(os, "open", slowly)
    with contextlib.suppress(ClaimedError), claimed(lock, "it"):
        assert lock.exists()
    with claimed(lock, "it"):
        assert lock.exists()


def test_a_folder_of_others_that_may_be_written(tmp_path, monkeypatch):
    """On a share none but its owner may change a file's mode."""

    def refused(self, mode):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.chmod", refused)
    write_atomically(tmp_path / "record.json", lambda file: file.write(b"new"))
    assert (tmp_path / "record.json").read_bytes() == b"new"


def test_a_fault_is_no_sentence():
    def fault():
        return [side for side, _ in [(1, 2, 3)]]

    for function, sentence in ((fault, False), (lambda: find({}, "x", "recipe"), True)):
        with pytest.raises(ValueError) as caught:
            function()
        assert on_purpose(caught.value) == sentence
