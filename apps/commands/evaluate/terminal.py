"""What the parts of `visavis evaluate` show: a bar on the terminal while they measure, figures at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str, float], None]]:
    """Takes what is being done and the fraction of it that is done."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=quiet, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, done: bar.update(task, description=what, completed=done)


def show(figures: dict[str, object], text: str, as_json: bool) -> None:
    """The figures on standard output, as one JSON document or as text to read."""
    sys.stdout.write(json.dumps(figures) + "\n" if as_json else text)
