"""Registering an operator with its derivative.

``torch.library.custom_op`` does as much, but takes 0.15 ms a call of an operator with many
arguments, because it reads the whole schema once for each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import names

LIBRARY = torch.library.Library(names.OPERATORS, "FRAGMENT")
REGISTERED = getattr(torch.ops, names.OPERATORS)


def differentiable(
    name: str,
    schema: str,
    compute: Callable[..., tuple[Tensor, ...]],
    fake: Callable[..., tuple[Tensor, ...]],
    save: Callable[[Any, tuple, tuple[Tensor, ...]], None],
    differentiate: Callable[..., tuple],
) -> Callable[..., tuple[Tensor, ...]]:
    """The operator ``pkernels::<name>``.

    Args:
        schema: ``"(Tensor x, ...) -> (Tensor, ...)"``.
        compute: Returns new tensors, and changes none.
        fake: The same without looking at values.
        save: ``save(ctx, inputs, outputs)`` keeps what the derivative needs.
        differentiate: ``differentiate(ctx, *gradients)`` returns one for each input;
            ``ctx.wanted`` says which are asked for.
    """
    LIBRARY.define(name + schema)
    LIBRARY.impl(name, compute, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{names.OPERATORS}::{name}", fake, lib=LIBRARY)
    operator = getattr(REGISTERED, name).default

    def below(keyset: Any, *inputs: Any) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keyset & torch._C._after_autograd_keyset, *inputs)

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, keyset: Any, *inputs: Any) -> tuple[Tensor, ...]:
            outputs = below(keyset, *inputs)
            ctx.wanted = ctx.needs_input_grad[1:]
            save(ctx, inputs, outputs)
            return outputs

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> tuple:
            return (None, *differentiate(ctx, *gradients))

    def autograd(keyset: Any, *inputs: Any) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs):
            return Function.apply(keyset, *inputs)
        return below(keyset, *inputs)

    LIBRARY.impl(name, autograd, "Autograd", with_keyset=True)
    return operator
