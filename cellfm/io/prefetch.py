"""Reading ahead: the next block is prepared while this one is computed."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """The same items; each is made in a thread while the one before is in use, so that two are held at a time."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="cellfm-read") as pool:
        waiting = pool.submit(next, iterator, end)
        while (item := waiting.result()) is not end:
            waiting = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]
