"""Limits of time and memory for code from strangers that has to run: chat templates, tokenizers' patterns.

The first run of a template, and of patterns that are not plain, is in a forked child (`try_in_child`), which may hang,
abort or use up the memory that it is given; that costs a few hundredths of a second, once. Later runs are in this
process and stopped when they take too long (`stopped_after`), which works on Python code but not on native libraries.
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
"""Time for one run; a sane template takes a thousandth of it."""
BYTES: Final = 1 << 30
"""Memory that one run may take beyond what the process already has."""
_LOOK_EVERY, _IDLE_LOOKS = 0.05, 20
"""Seconds between two looks at the runs, and the number of looks without a run after which the thread ends."""
_FINE, _FAILED, _NO_MEMORY = 0, 1, 2


class LimitExceeded(Exception):
    """A run took too long or too much memory, or crashed the child process; the message says which."""


def try_in_child(call: Callable[[], Any]) -> None:
    """Run something in a forked child, to see whether it stays within the limits. What it returns or raises is lost.

    Elsewhere than on Linux nothing is run: memory cannot be limited, and system libraries may not be used after a fork.

    Raises:
        LimitExceeded: if it does not.
    """
    if sys.platform != "linux":
        return
    with warnings.catch_warnings():
        # Python 3.12 warns of forks in processes with threads. The child takes no lock that another thread may hold.
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # aborting libraries print a lot
        _limit_memory()
        call()
        code = _FINE
    except MemoryError:
        code = _NO_MEMORY
    except BaseException:  # the parent runs it too, and gets the same error
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
    """The child's exit status; None if it was killed for taking too long."""
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
    """Stops Python code in the block that runs longer, a tenth of a second later at most; raises `LimitExceeded`."""
    run = _WATCH.begin(seconds)
    try:
        yield
    except _Stopped:
        raise LimitExceeded(f"it takes more than {seconds:.0f} s") from None
    finally:
        _WATCH.end(run)


class _Watch:
    """One thread that watches all runs, and ends when there have been none for a while; one per run would cost more."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.running: dict[object, tuple[int, float]] = {}
        """The thread of each run, and the time at which to stop it."""
        self.is_looking = False

    def begin(self, seconds: float) -> object:
        run = object()
        with self.guard:
            self.running[run] = (threading.get_ident(), time.monotonic() + seconds)
            if not self.is_looking:
                threading.Thread(target=self._look, daemon=True).start()
                self.is_looking = True
        return run

    def end(self, run: object) -> None:
        with self.guard:
            self.running.pop(run, None)
            _throw(threading.get_ident(), None)  # cancel what was thrown but has not arrived yet

    def _look(self) -> None:
        n_idle = 0
        while n_idle < _IDLE_LOOKS:
            time.sleep(_LOOK_EVERY)
            with self.guard:
                n_idle = 0 if self.running else n_idle + 1
                late = [run for run, (_, end) in self.running.items() if time.monotonic() > end]
                for run in late:
                    _throw(self.running.pop(run)[0], _Stopped)
                self.is_looking = n_idle < _IDLE_LOOKS


def _throw(thread: int, error: type[BaseException] | None) -> None:
    thrown = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), thrown)


class _Stopped(BaseException):
    """Thrown into a thread that runs too long; not an `Exception`, which a template's filters might catch."""


_WATCH: Final = _Watch()
if hasattr(os, "register_at_fork"):  # a forked child has no such thread, and might have its lock held for ever
    os.register_at_fork(after_in_child=_WATCH.__init__)
