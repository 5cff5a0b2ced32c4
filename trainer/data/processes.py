"""The same work over many items in several processes, the finished ones told as they come."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from trainer.errors import UserError

T = TypeVar("T")


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def over(items: Sequence[T], work: Callable[[T], Any], processes: int) -> Iterator[tuple[T, Any]]:
    """Items with what `work` made of them, as they are finished; in this process where one is enough.

    The first error ends it; what has begun is finished first. work and items go to other processes and must pickle.
    """
    if processes <= 1 or len(items) <= 1:
        for item in items:
            yield item, work(item)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(items)), mp_context=context) as pool:
        futures = {pool.submit(work, item): item for item in items}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise UserError(
                "A process was killed, perhaps for memory: give the same command again with fewer --processes; it goes "
                "on behind what is finished."
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
