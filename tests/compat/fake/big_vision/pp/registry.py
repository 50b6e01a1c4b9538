"""The registry's interface: register by name, look a call up by its text."""

import ast
import functools
from typing import ClassVar


class Registry:
    """One table for the whole process."""

    _TABLE: ClassVar[dict] = {}

    @staticmethod
    def global_registry():
        return Registry._TABLE

    @staticmethod
    def register(name, replace=False):
        def put(item):
            if name in Registry._TABLE and not replace:
                raise KeyError(f"The name {name!r} was already registered.")
            Registry._TABLE[name] = item
            return item

        return put

    @staticmethod
    def lookup(text, kwargs_extra=None):
        node = ast.parse(text, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        args = [ast.literal_eval(arg) for arg in call.args]
        named = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
        item = Registry._TABLE[ast.unparse(call.func)]
        return functools.partial(item, *args, **named, **(kwargs_extra or {}))
