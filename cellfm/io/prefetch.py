"""Prefetching: prepare the next block while the current one is computed."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """Yield the same items. Each is made in a thread while the previous one is in use, so two are held at a time."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="cellfm-read") as pool:
        waiting = pool.submit(next, iterator, end)
        while (item := waiting.result()) is not end:
            waiting = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]
