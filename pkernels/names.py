"""The names under which torch knows the operators of this copy.

They begin with ``pkernels``. kernel-builder (``build.toml``) makes one extension of everything and gives it a
name of its own, which it writes into a module ``_ops``, so that two versions can share a process.
"""

from __future__ import annotations

import importlib

import torch


def _namespace() -> str | None:
    try:
        written = importlib.import_module(f"{__package__}._ops")
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}._ops":
            raise
        return None
    return written.add_op_namespace_prefix("").removesuffix("::")


_OWN = _namespace()
OPERATORS = _OWN or "pkernels"
NATIVE, CUDA = f"{OPERATORS}_native", f"{OPERATORS}_cuda"


def load(module: str, namespace: str, operator: str) -> None:
    """Import an extension, which registers the operators of a namespace.

    Raises:
        ImportError: If there is none.
    """
    if _OWN is None:
        importlib.import_module(f"{__package__}.{module}")
    elif not hasattr(getattr(torch.ops, namespace), operator):  # its _ops has imported what there is
        raise ImportError(f"{_OWN} was built without {module}")
