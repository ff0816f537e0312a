"""A progress bar where there is a terminal and the package for it; training runs without either."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(name: str, shown: bool = True) -> Iterator[Callable[[float, str], None]]:
    """Gives a function that shows the done share in [0, 1] and a few words."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield lambda done, words: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"))
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), disable=not shown, refresh_per_second=1, console=console) as bar:
        task = bar.add_task(name, total=1.0, words="")
        yield lambda done, words: bar.update(task, completed=done, words=words)
