"""The errors that a user is meant to read: one clear line, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """The call or its input is wrong. The message reads ``what, where; what to do`` and fits one line.

    The command line prints it as ``error: ...`` and ends with exit code 2; nothing half-written is left behind.
    """


class MissingExtra(UserError):
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'unflip[{extra}]'")


class SaidElsewhere(UserError):
    """What the first process of a training says for all of them; the others end with the same exit code, and say nothing."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Interrupted(Exception):
    """A run was stopped by a signal, after it saved. ``exit_code`` is 128 + the signal's number."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def one_line(error: BaseException) -> str:
    """What an error of another library says, which can be many lines or none, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def short(name: object) -> str:
    """A name in a file of others, which can be anything, quoted and fit to be printed."""
    return cut(ascii(name), 80)


def cut(text: str, most: int) -> str:
    """``text`` in at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
