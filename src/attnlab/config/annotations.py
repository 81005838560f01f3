"""Types of attnlab's own classes, read from their source to report a wrong value without importing torch.

``signatures`` checks the rest (types of other libraries, classes made elsewhere).
"""

import ast
import collections.abc
import contextlib
import functools
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]  # the folder of the package


@functools.cache
def written_types(target: str) -> Mapping[str, Any]:
    """Parameter of the class or function of ours at this dotted path -> its type, if the source alone gives it."""
    module, _, name = target.rpartition(".")
    found = _Module.of(module).definition(name) if module.split(".")[0] == "attnlab" else None
    return dict(_types(*found)) if found else {}


def _types(module: "_Module", node: ast.AST) -> Iterator[tuple[str, Any]]:
    if isinstance(node, ast.FunctionDef):
        for argument in (*node.args.args, *node.args.kwonlyargs):
            if argument.annotation:
                with contextlib.suppress(NameError, AttributeError, TypeError):  # of another library
                    yield argument.arg, module.evaluate(argument.annotation)
    elif isinstance(node, ast.ClassDef):
        inits = (part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__")
        init = next(inits, None)
        if init is None or init.args.kwarg:  # what it does not take itself, it passes on
            for base in node.bases:
                if isinstance(base, ast.Name) and (found := module.definition(base.id)):
                    yield from _types(*found)
        if init is not None:
            yield from _types(module, init)


class _Module(dict[str, Any]):
    """A file of ours as the names in it, each evaluated when it is asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.nodes: dict[str, ast.AST] = {}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                self.nodes[node.name] = node
            elif isinstance(node, ast.ImportFrom):
                self.nodes |= {alias.asname or alias.name: node for alias in node.names}
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.nodes[node.targets[0].id] = node

    @staticmethod
    @functools.cache
    def of(name: str) -> "_Module":
        path = ROOT.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        return _Module(file) if file.exists() else _Module(Path(__file__).with_name("__init__.py"))

    def definition(self, name: str) -> "tuple[_Module, ast.AST] | None":
        """Where a class or function is defined, through the files that import it."""
        node = self.nodes.get(name)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("attnlab."):
            return _Module.of(node.module or "").definition(name)
        return (self, node) if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else None

    def evaluate(self, node: ast.expr) -> Any:
        return eval(compile(ast.Expression(node), "<annotation>", "eval"), {}, self)

    def __missing__(self, name: str) -> Any:
        node = self.nodes.get(name)
        if isinstance(node, ast.Assign):
            return self.evaluate(node.value)
        if isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if source.startswith("attnlab."):
                return _Module.of(source)[name]
            if source in ("typing", "collections.abc"):
                return getattr(typing if source == "typing" else collections.abc, name)
        raise KeyError(name)
