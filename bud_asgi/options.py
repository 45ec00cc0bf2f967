"""The error that a constructor raises for an option it cannot use."""

from __future__ import annotations


class OptionError(ValueError):
    """An option is missing, invalid, or contradicts another one.

    `option` is the argument's name, with a path into it where that helps (`to[1].model`). `problem` states what is
    wrong and what is allowed; it never contains a value that could be a secret. The reader of the configuration file
    turns `option` into a file name, key path and line.
    """

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"{option}: {problem}")
        self.option = option
        self.problem = problem
