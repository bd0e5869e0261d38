"""A map of bounded size: what was kept longest ago is forgotten."""

from itertools import islice


class Recent[Key, Value](dict[Key, Value]):
    """What was kept last, `size` of it and at most a hundredth more; an OrderedDict takes half as much again.

    A dict passes what was taken out of it to find its oldest: so many go at a time.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size, self._at_a_time = size, 1 + size // 100

    def keep(self, key: Key, value: Value) -> None:
        """Keep a value as the latest; those that were kept longest ago go where there are too many."""
        self.pop(key, None)
        if len(self) >= self._size + self._at_a_time - 1:
            for oldest in [*islice(self, self._at_a_time)]:
                del self[oldest]
        self[key] = value
