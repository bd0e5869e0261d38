"""A map of bounded size: what was kept longest ago is forgotten."""

from collections import OrderedDict


class Recent[Key, Value](OrderedDict[Key, Value]):
    """What was kept last, at most `size` of it; not a plain dict, of which finding the oldest takes long."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def keep(self, key: Key, value: Value) -> None:
        """Keep a value as the latest; the one that was kept longest ago goes where there are too many."""
        if key in self:
            self.move_to_end(key)
        elif len(self) >= self._size:
            self.popitem(last=False)
        self[key] = value
