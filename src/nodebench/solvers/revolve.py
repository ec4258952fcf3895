"""Which states to recompute from which, when fewer can be kept than a backward pass needs."""

from collections.abc import Callable, Iterator
from math import comb
from typing import TypeVar

State = TypeVar("State")


def backwards(
    n_steps: int, n_kept: int, first: State, advance: Callable[[int, State], State]
) -> Iterator[tuple[int, State]]:
    """The state before each step, last step first, with the fewest steps redone that `n_kept` states allow.

    Args:
        n_steps: Number of steps.
        n_kept: States that may be held at once, `first` among them and the one just handed out not, at least 1.
        first: State before step 0.
        advance: `advance(i, y)` redoes step i from the state before it and returns the state after it.

    Yields:
        Index of the step and the state before it.

    References:
        Algorithm 799: revolve: an implementation of checkpointing for the reverse or adjoint mode of computational
        differentiation (Griewank, Walther, 2000), https://doi.org/10.1145/347837.347846
    """
    return _sweep((0, n_steps), n_kept, first, advance)


def _sweep(
    steps: tuple[int, int], n_kept: int, first: State, advance: Callable[[int, State], State]
) -> Iterator[tuple[int, State]]:
    low, high = steps
    while high - low > n_kept + 1:
        middle, y = low + split(high - low, n_kept), first
        if n_kept == 1:
            middle = high - 1
        for i in range(low, middle):
            y = advance(i, y)
        if n_kept == 1:
            yield middle, y
        else:
            yield from _sweep((middle, high), n_kept - 1, y, advance)
        high = middle
    states = [first]
    for i in range(low, high - 1):
        states.append(advance(i, states[-1]))
    for i in range(high - 1, low - 1, -1):
        yield i, states.pop()


def split(n_steps: int, n_kept: int) -> int:
    """After how many of `n_steps` steps the next state is best kept, given more steps than `n_kept` + 1."""
    repeats = 1
    while comb(n_kept + repeats, n_kept) < n_steps:
        repeats += 1
    longest_before = comb(n_kept + repeats - 1, n_kept)
    shortest_after = comb(n_kept + repeats - 2, n_kept - 1)
    return min(longest_before, n_steps - shortest_after)
