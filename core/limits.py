"""What a process takes from itself before it runs code that it does not know.

    confine(folder, memory)    no large files, no more memory, no writing outside `folder`
    limit_processes(count)     no more of them
    protects()                 whether the system can forbid that writing at all
    adopt_orphans()            whatever this process's descendants start stays its descendant
    die_with_parent()          no process outlives the one that watches it

None of these can be taken back, and all that the process starts inherits the first one. They hold
against mistakes, root's too. They are no sandbox against malice: everything may still be read.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

if sys.platform != "win32":
    import resource

LARGEST_FILE = 2**28  # bytes
NO_NEW_PRIVILEGES, PARENT_DEATH, SUBREAPER = 38, 1, 36  # of prctl(2)

# Landlock, docs.kernel.org/userspace-api/landlock.html: Linux 5.13 and newer, without being root.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls
WRITE_FILE, REFER, TRUNCATE = 1 << 1, 1 << 13, 1 << 14
REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
TCP = 0b11  # bind, connect
SIGNALS_AND_SOCKETS = 0b11  # to processes that are not confined
# What programs write without harm: nowhere, memory shared with DataLoader's workers, a GPU.
DEVICES = ("dev/null", "dev/zero", "dev/full", "dev/shm", "dev/nvidia*", "dev/dri/*")
DEVICES += ("dev/dxg", "dev/kfd", "proc/self/task")  # a driver names its threads in the last one


class Ruleset(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("files", "network", "scope")]


class Beneath(ctypes.Structure):
    _pack_, _layout_ = 1, "ms"  # Python 3.14 and newer want the layout named
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def _system():
    return ctypes.CDLL(None, use_errno=True)


def _checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def protects():
    """Version of Landlock that this kernel offers; 0 for none: writing can only be noticed."""
    if sys.platform != "linux":
        return 0
    return max(0, _system().syscall(CREATE_RULESET, None, 0, 1))


def confine(folder, memory=None, protect=True):
    """Limits this process and all that it will start.

    folder: the only one in which files may be written, made or removed, where `protects()`.
    memory: bytes that one process may ask for; None for no limit.
    protect: False lets it write everywhere.

    Newer kernels also forbid TCP connections, and signals to processes that are not confined.
    """
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, LARGEST_FILE)
    if memory is not None and sys.platform == "linux":
        # What is asked for, not what is mapped: CUDA and threads reserve many times that.
        _lower(resource.RLIMIT_DATA, memory)
    if protect and protects():
        _write_only_in(folder)


def limit_processes(count):
    """This user's processes and threads, all that there are already included; not for root."""
    _lower(resource.RLIMIT_NPROC, count)


def sees_all_processes():
    """Whether this process is in no container: there the system counts more of them than it shows.

    4026531836 is the number that Linux gives its first namespace.
    """
    space = Path("/proc/self/ns/pid")
    return sys.platform != "linux" or str(space.readlink()) == "pid:[4026531836]"


def _lower(what, most):
    """Sets a limit; one that is lower already stays."""
    there = [limit for limit in resource.getrlimit(what) if limit != resource.RLIM_INFINITY]
    most = min([most, *there])
    resource.setrlimit(what, (most, most))


def _write_only_in(folder):
    system, version = _system(), protects()
    writing = WRITE_FILE | REMOVE_AND_MAKE
    writing |= (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0)
    asked = Ruleset(writing, TCP if version >= 4 else 0, SIGNALS_AND_SOCKETS * (version >= 6))
    # Older kernels know the first fields alone.
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _checked(system.syscall(CREATE_RULESET, ctypes.byref(asked), size, 0))
    devices = [path for pattern in DEVICES for path in Path("/").glob(pattern)]
    for path in [Path(folder), *devices]:
        allowed = writing if path.is_dir() else writing & (WRITE_FILE | TRUNCATE)
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = Beneath(allowed, opened)
        _checked(system.syscall(ADD_RULE, ruleset, 1, ctypes.byref(rule), 0))
        os.close(opened)
    _checked(system.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(system.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def adopt_orphans():
    """Descendants whose parent ends become children of this process: none gets out of sight."""
    if sys.platform == "linux":
        _checked(_system().prctl(SUBREAPER, 1, 0, 0, 0))


def die_with_parent():
    if sys.platform == "linux":
        _checked(_system().prctl(PARENT_DEATH, signal.SIGKILL, 0, 0, 0))
