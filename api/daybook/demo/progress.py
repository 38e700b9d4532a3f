"""Progress tells on standard error how far a long step is: a bar on a terminal, a line now and then elsewhere.

It must not write to standard output, which holds the values that scripts read.
"""

from __future__ import annotations

import sys

WIDTH = 40
PLAIN_STEP = 25


def tell(sentence: str) -> None:
    """Say something that is no value."""
    print(sentence, file=sys.stderr, flush=True)


class Progress:
    """How much of a step is done, from 0 to 1."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._is_terminal = sys.stderr.isatty()
        self._shown = -1

    def show(self, part: float) -> None:
        """Show that this part is done."""
        percent = int(100 * min(part, 1))
        step = percent if self._is_terminal else percent // PLAIN_STEP * PLAIN_STEP
        if step == self._shown:
            return
        self._shown = step
        if self._is_terminal:
            done = WIDTH * percent // 100
            bar = "█" * done + "░" * (WIDTH - done)
            print(f"\r{self.title}  {bar} {percent:3d} %", end="", file=sys.stderr, flush=True)
        else:
            print(f"{self.title}: {step} %", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the bar's line, wherever it stands."""
        if self._is_terminal:
            print(file=sys.stderr, flush=True)
