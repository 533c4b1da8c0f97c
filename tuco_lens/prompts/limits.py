"""Code that a stranger wrote and that has to run: a chat template, a tokenizer's patterns. Bounded in time and memory.

The first run of a template, and of patterns that are not plain, is in a forked child (`try_in_child`), which may hang,
abort or take all memory that it is given; that costs a few hundredths of a second once. Later runs are in this process,
and are stopped when they take too long (`stopped_after`), which can be done to Python's code but not to what runs in a
library of another language.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final

SECONDS: Final = 10.0
"""For one run; what is sane takes a thousandth of it."""
BYTES: Final = 1 << 30
"""That one run may take beside what the process has."""
_FINE, _FAILED, _NO_MEMORY = 0, 1, 2


class LimitExceeded(Exception):
    """Why a run was stopped: it took too long, or too much memory, or it ended the process it ran in."""


def try_in_child(call: Callable[[], Any]) -> None:
    """Run something in a forked child, to see whether it stays within the limits. What it returns or raises is lost.

    On Linux alone: elsewhere memory cannot be limited, and libraries of the system may not be used after a fork.

    Raises:
        LimitExceeded: if it does not.
    """
    if sys.platform != "linux":
        return
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads. The child takes no lock that another thread may hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _be_child(call)
    status = _waited_for(pid)
    if status is None:
        raise LimitExceeded(f"it takes more than {SECONDS:.0f} s")
    if os.WIFSIGNALED(status):
        raise LimitExceeded(f"it ends the process ({signal.Signals(os.WTERMSIG(status)).name})")
    if os.WEXITSTATUS(status) == _NO_MEMORY:
        raise LimitExceeded(f"it takes more than {BYTES >> 20} MiB")


def _be_child(call: Callable[[], Any]) -> None:
    code = _FAILED
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # an aborting library has much to say
        _limit_memory()
        call()
        code = _FINE
    except MemoryError:
        code = _NO_MEMORY
    except BaseException:  # the parent runs it too, and meets the same
        code = _FAILED
    finally:
        os._exit(code)


def _limit_memory() -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _waited_for(pid: int) -> int | None:
    """The child's status; None if it had to be killed."""
    pause, end = 0.001, time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


@contextlib.contextmanager
def stopped_after(seconds: float = SECONDS) -> Generator[None]:
    """Raises `LimitExceeded` in Python code that runs longer than this in the block."""
    thread, guard, is_over = threading.get_ident(), threading.Lock(), False

    def stop() -> None:
        with guard:
            if not is_over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_Stopped))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    except _Stopped:
        raise LimitExceeded(f"it takes more than {seconds:.0f} s") from None
    finally:
        with guard:
            is_over = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None)
        timer.cancel()


class _Stopped(BaseException):
    """Thrown into a thread that has run for too long; not an `Exception`, which a template's filters might swallow."""
