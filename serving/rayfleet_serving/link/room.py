"""Memory for what takes calls and answers them, where the model beside it may have taken all there is."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager


class Room:
    """As much as the machine has. `model.share` knows of less."""

    def reserve(self) -> AbstractContextManager[None]:
        """Here there is memory that the model does not get, if any is left at all. For a block without an await."""
        return contextlib.nullcontext()

    def answers(self) -> AbstractContextManager[None]:
        """The same for what requests that are here need to be answered: some more, so that those that wait cannot take
        all of it."""
        return contextlib.nullcontext()

    def lacked(self, *, for_long: bool = False) -> None:
        """There was none within one of these, and something was lost by it; `for_long`: nor did it help to wait."""
