"""Progress of long work: a bar on a terminal, a line for every tenth elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class _TwoLines(Progress):
    """The bar, and below it the news, cut where the terminal ends: in one line they would squeeze out the time left."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            if task.fields["news"]:
                yield Text(task.fields["news"], no_wrap=True, overflow="ellipsis")


class Bar:
    """``with Bar("training", 1000) as bar: bar.show(10, "what else to say")``, on standard error."""

    def __init__(self, doing: str, total: int, done: int = 0, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True)
        self.doing, self.total, self.quiet = doing, total, quiet
        self.tenth = done * 10 // max(total, 1)
        self.bar = _TwoLines(
            TextColumn(doing),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[whole]:,}/{task.total:,.0f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task(doing, total=total, completed=done, whole=done, news="")

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def show(self, done: int, news: str = "", share: float = 0.0) -> None:
        """``done`` of the total is done, and a ``share`` of the next one."""
        self.bar.update(self.task, completed=done + share, whole=done, news=news)
        tenth = int((done + share) * 10 / max(self.total, 1) + 1e-9)
        if tenth > self.tenth and not self.quiet and not self.console.is_terminal:
            self.console.print(f"{self.doing} {done:,}/{self.total:,}  {news}".rstrip(), soft_wrap=True, highlight=False, markup=False)
        self.tenth = max(tenth, self.tenth)
