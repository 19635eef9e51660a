"""Write mpidask/__init__.pyi, in which type checkers and editors see the options.

::

    python tools/stub.py && ruff format mpidask
"""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import mpidask

STUB = ROOT / "mpidask" / "__init__.pyi"

HEAD = '''"""Turn an MPI job into a Dask cluster, as type checkers and editors see it.

Made by tools/stub.py from the declaration of the options.
"""

# Which of two overloads is meant, if both are right, their order says.
# mypy: disable-error-code="overload-overlap"

import os
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from distributed import Client, Security
from mpi4py import MPI

from mpidask import _typing as t
'''

TYPES = """
_P = ParamSpec("_P")
_R = TypeVar("_R")
_A = TypeVar("_A")
_B = TypeVar("_B")
_C = TypeVar("_C")
_Yields = TypeVar("_Yields", covariant=True)

class _Block(
    AbstractContextManager[_Yields, bool | None],
    AbstractAsyncContextManager[_Yields, bool | None],
    Protocol[_Yields],
): ...
"""

#: Functions as they are written, and decorated, as in mpidask/_typing.py; {R} is the result.
DECORATED = {
    "t.First[_P, {R}]": "t.MainFirst[_P, {R}]",
    "t.BehindMany[{R}]": "Callable[..., {R}]",
    "t.Behind6[{R}]": "Callable[..., {R}]",
    "t.Behind5[{R}]": "Callable[..., {R}]",
    "t.Behind4[{R}]": "Callable[..., {R}]",
    "t.Behind3[_A, _B, _C, {R}]": "t.Main3[_A, _B, _C, {R}]",
    "t.Behind2[_A, _B, {R}]": "t.Main2[_A, _B, {R}]",
    "t.Behind1[_A, {R}]": "t.Main1[_A, {R}]",
    "t.Behind0[{R}]": "t.Main0[{R}]",
    "Callable[_P, {R}]": "Callable[_P, {R}]",
}

#: The result of a function, and of its call: with exit=False, other ranks get None.
KEEPS = {"_R": "_R"}
MAY_BE_NONE = {
    "Coroutine[Any, Any, _R]": "Coroutine[Any, Any, _R | None]",
    "_R": "_R | None",
}


def overloads(name: str, results: dict[str, str], indent: str = "") -> list[str]:
    """Write the overloads of a function that takes and returns a function."""
    this = "self, " if indent else ""
    return [
        f"{indent}@overload\n"
        f"{indent}def {name}({this}function: {wrapped.format(R=result)}, /) -> "
        f"{decorated.format(R=called)}: ..."
        for wrapped, decorated in DECORATED.items()
        for result, called in results.items()
    ]


def parameters(name: str, *, exit: str = "") -> str:
    """Write the parameters of a function, one a line."""
    lines, star = [], False
    for parameter in inspect.signature(getattr(mpidask, name)).parameters.values():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            lines.append("*")
            star = True
        text = str(parameter).replace("'", '"')
        lines.append(exit if parameter.name == "exit" and exit else text)
    return "".join(f"    {line},\n" for line in lines)


def with_options(name: str, always: str, maybe: str) -> list[str]:
    """Write the overloads of a function whose result depends on the option `exit`."""
    return [
        f"@overload\ndef {name}(\n{parameters(name, exit=exit)}) -> {result}: ..."
        for exit, result in (("exit: Literal[True] = True", always), ("exit: bool", maybe))
    ]


def imports() -> list[str]:
    """Write the imports of the names that the stub has nothing to add to."""
    tree = ast.parse(STUB.with_suffix(".py").read_text())
    return [
        f"from {statement.module} import {name.name} as {name.name}"
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom) and statement.module != "mpidask._api"
        for name in statement.names
    ]


def text() -> str:
    """Write the whole stub."""
    return "\n".join(
        [
            HEAD + "\n".join(imports()),
            TYPES,
            "class _Decorator(Protocol):",
            *overloads("__call__", KEEPS, "    "),
            "",
            "class _DecoratorOfAll(Protocol):",
            *overloads("__call__", MAY_BE_NONE, "    "),
            "",
            *with_options("mpi_dask", "_Block[Client]", "_Block[Client | None]"),
            *overloads("mpi_dask_main", KEEPS),
            *with_options("mpi_dask_main", "_Decorator", "_DecoratorOfAll"),
            f"def join_existing(\n{parameters('join_existing')}) -> None: ...",
            "",
            "__version__: str",
            "",
        ]
    )


if __name__ == "__main__":
    STUB.write_text(text())
