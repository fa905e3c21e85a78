"""The prose in Python files: their docstrings."""

import ast
import warnings

from stages.errors import UserError

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(code: str, origin: str) -> str:
    """Return the docstrings of a Python file, dedented, in source order, one empty line between them.

    Raises:
        UserError: The file is not Python.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # invalid escapes in other people's strings
            tree = ast.parse(code)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"'{origin}' is not Python: {error}. Add it to the source's `exclude`.") from None
    documented = [node for node in ast.walk(tree) if isinstance(node, _DOCUMENTED)]
    documented.sort(key=lambda node: node.body[0].lineno if node.body else 0)
    texts = (ast.get_docstring(node) for node in documented)
    return "".join(f"{text}\n\n" for text in texts if text).removesuffix("\n")
