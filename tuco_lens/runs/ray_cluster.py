"""Ray itself: started here or joined, what a worker gets of it, and its failures in one line."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from tuco_lens.errors import InputError, LoadError, TucoLensError
from tuco_lens.runs.pair_choice import PairChoice

STORE_BYTES: Final = 512 * 2**20
"""Object store of a Ray on this machine: units and rows on their way; what is more goes to disk."""
CONNECT_SECONDS: Final = 5.0
HALF_CPU: Final = 0.5
"""Least share of a worker where CPUs are few."""


DEATHS: Final = 20
"""Workers that may die at one batch before the run is given up: then it is the batch that kills them."""


@dataclass(frozen=True)
class Share:
    """What each worker holds of the cluster."""

    n_workers: int
    """Workers."""
    cpus: float
    """CPU cores."""
    gpus: float
    """Accelerators."""

    @property
    def threads(self) -> int:
        """Threads of torch."""
        return max(1, int(self.cpus))


def import_ray() -> Any:
    """The library.

    Raises:
        LoadError: if it is not installed.
    """
    # Read when it is imported: nothing is reported to Ray's makers, and its C++ part says what errors say better.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data  # pyright: ignore[reportUnusedImport] - the extra brings it, `ray` alone does not
    except ImportError as error:
        what = "workers need Ray"
        raise LoadError(what, str(error), "install it with: pip install 'tuco-lens[ray]'") from error
    return ray


@contextmanager
def running(address: str | None, n_workers: int, *, cpus: int | None = None) -> Generator[None]:
    """Ray runs while this is open: that of the address, or one on this machine with enough CPUs to its name.

    A Ray that the caller has started is used, and left running.

    Raises:
        LoadError: if Ray is not installed.
        InputError: if no cluster answers, or Ray does not start here.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield
        return
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        # Ray's CPUs are names, not cores: with one for each thread all workers start, however few cores there are.
        n_cpus = n_workers * (cpus or threads_here(n_workers))
        how |= {"num_cpus": n_cpus, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        how |= {"_node_ip_address": "127.0.0.1"}  # nobody else's business
    else:
        _require_answer(address)
    try:
        with _quiet():
            with _stderr_closed():  # its C++ part says there that it was told to say nothing
                _start(ray, address, how)
            yield
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is None or ray.is_initialized():
            raise
        raise _unreachable(address, first_line(error)) from error
    finally:
        ray.shutdown()


def _start(ray: Any, address: str | None, how: Mapping[str, Any]) -> None:
    """Starts Ray here, or joins the cluster; where all cores are busy Ray gives up too early, so it has two tries.

    Raises:
        InputError: if it does not start here.
    """
    try:
        ray.init(address=address, **how)
    except Exception as error:  # Ray raises it bare
        if address is not None or type(error) is not Exception:
            raise
        ray.shutdown()
        try:
            ray.init(**how)
        except Exception as again:
            remedy = "try again when the machine is less busy, or without --workers"
            raise InputError("cannot start Ray", first_line(again), remedy) from again


def threads_here(n_workers: int) -> int:
    """CPU cores of this machine for each of so many workers."""
    return max(1, (os.cpu_count() or 1) // n_workers)


@contextmanager
def _quiet() -> Generator[None]:
    """Without what Ray Data logs while all is well."""
    logger = logging.getLogger("ray.data")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _stderr_closed() -> Generator[None]:
    """Whatever this process writes to the descriptor of stderr is lost."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _require_answer(address: str) -> None:
    """Refuse an address where nobody listens; Ray itself would go on trying for a minute."""
    if address in ("auto", "local"):
        return
    place = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        port = place.port or 10001
        socket.create_connection((place.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _unreachable(address, getattr(error, "strerror", None) or str(error)) from error


def _unreachable(address: str, why: str) -> InputError:
    remedy = "start one with `ray start --head --port 6379`, and give its HOST:6379"
    return InputError(f"no Ray cluster at {address}", why, remedy)


def share_of(n_workers: int, pair: PairChoice, *, gpus: float | None, cpus: float | None, n_free: int = 0) -> Share:
    """What each of the workers gets of the Ray that runs: of the CPUs as many as there are for each.

    Args:
        n_workers: how many there are to be.
        pair: what they load; an embedded pair, or one for the CPU, gets no accelerator.
        gpus: accelerators of each; None is one, if there is any.
        cpus: CPUs of each; None is what there is, or one beside an accelerator.
        n_free: CPUs to be left free, for tasks that need some.

    Raises:
        InputError: if the cluster does not hold so many.
    """
    nodes = _nodes()
    n_cpus = sum(node.get("CPU", 0) for node in nodes)
    if gpus is None:
        gpus = float(_may_use_gpu(pair) and any(node.get("GPU", 0) > 0 for node in nodes))
    most = 1 if gpus else int(max(1, n_cpus // n_workers))
    wanted = [cpus] if cpus is not None else [*range(most, 0, -1), *([HALF_CPU] if n_free else [])]

    def room(each: float) -> int:
        return min(_capacity(nodes, each, gpus), int((n_cpus - n_free) // each))

    for each in wanted:
        if room(each) >= n_workers:
            return Share(n_workers, each, gpus)
    found = max(0, room(wanted[-1]))
    what = f"{n_workers} workers of {wanted[-1]:g} CPU and {gpus:g} accelerators each"
    why = f"the cluster has room for {found}" + (f" beside {n_free} CPU for those who read" if n_free else "")
    raise InputError(what, why, f"ask for {found} workers, or add nodes" if found else "ask for less, or add nodes")


def _may_use_gpu(pair: PairChoice) -> bool:
    return not pair.is_demo and pair.device in (None, "cuda")


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in import_ray().nodes() if node["Alive"]]


def _capacity(nodes: list[dict[str, float]], cpus: float, gpus: float) -> int:
    """Workers that the nodes hold: none is spread over two."""
    return sum(
        int(min(node.get("CPU", 0) // cpus, node.get("GPU", 0) // gpus if gpus else float("inf"))) for node in nodes
    )


def use_share(threads: int) -> None:
    """In a worker: as many threads as it has cores to itself."""
    import torch

    torch.set_num_threads(threads)


def in_pool(dataset: Any, measurer: type, arguments: dict[str, Any], share: Share, *, batch_size: int) -> Any:
    """The data set that workers make of another, batch by batch; one that dies is replaced, and its batch done again.

    Args:
        dataset: a `ray.data.Dataset`.
        measurer: of which each worker is one: takes an arrow table, and returns another.
        arguments: what it is made with.
        share: how many there are, and what each gets.
        batch_size: rows of a table.
    """
    from ray.data import ActorPoolStrategy

    with warnings.catch_warnings():
        # Deprecated in 2.60, which has no other way to say it; the extra `ray` ends where it does.
        warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
        return dataset.map_batches(
            measurer,
            fn_constructor_kwargs=arguments,
            batch_size=batch_size,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=share.n_workers, max_tasks_in_flight_per_actor=2),
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            ray_remote_args_fn=_retries,
        )


def _retries() -> dict[str, int]:
    """Beside Ray Data's own choice, that workers are replaced without end."""
    return {"max_task_retries": DEATHS}


@contextmanager
def failures_in_one_line() -> Generator[None]:
    """What Ray raises becomes an error of this package, if it is one: the worker's own, or that workers keep dying."""
    ray = import_ray()
    try:
        yield
    except (ray.exceptions.RayError, *_data_errors()) as error:
        own = _own(error)
        if own is not None:
            raise own from error
        if isinstance(error, ray.exceptions.RayTaskError):
            raise
        remedy = "give workers more memory (fewer --workers), or look for the prompts that end them; then --resume"
        raise InputError("the workers died again and again", first_line(error), remedy) from error


def _data_errors() -> tuple[type[BaseException], ...]:
    from ray.data.exceptions import SystemException

    return (SystemException,)


def _own(error: BaseException | None) -> TucoLensError | None:
    """The error of this package behind one of Ray's."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, TucoLensError):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None


def first_line(error: BaseException) -> str:
    """What it says in one line."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
