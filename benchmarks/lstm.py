"""The projected LSTM beside a loop of plain torch, and beside torch's own LSTM, which clips nothing:
``python -m benchmarks.lstm``. Forward, and forward with backward, of one direction of one layer with
the product of its inputs; the contenders take turns.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pkernels import projected_lstm

from .timing import interleave

# ELMo's small and original sizes (cells, state), and bilm-tf's 20 steps: rows, steps, cells, width.
CASES = ((16, 20, 1024, 128), (64, 20, 1024, 128), (16, 20, 4096, 512), (1, 20, 4096, 512))
CLIP = 3.0


def looped(x: Tensor, recurrent: Tensor, projection: Tensor, *, clip: float = CLIP, reverse: bool = False) -> Tensor:
    """The equations, a step at a time."""
    h, c = (x.new_zeros(x.shape[0], width) for width in projection.shape)
    outs = []
    for z in reversed(x.unbind(1)) if reverse else x.unbind(1):
        i, f, g, o = (z + h @ recurrent.mT).chunk(4, -1)
        c = (f.sigmoid() * c + i.sigmoid() * g.tanh()).clamp(-clip, clip)
        h = ((o.sigmoid() * c.tanh()) @ projection.mT).clamp(-clip, clip)
        outs.append(h)
    return torch.stack(outs[::-1] if reverse else outs, 1)


def contenders(rows: int, steps: int, cells: int, width: int) -> tuple[dict[str, Callable[[], Tensor]], Tensor]:
    """What each computes, and the gradient that comes back."""
    torch.manual_seed(0)
    theirs, into = nn.LSTM(width, cells, proj_size=width, batch_first=True), nn.Linear(width, 4 * cells)
    recurrent = nn.Parameter(0.05 * torch.randn(4 * cells, width))
    projection = nn.Parameter(0.05 * torch.randn(width, cells))
    x = torch.randn(rows, steps, width, requires_grad=True)

    def ours() -> Tensor:
        return projected_lstm(into(x), recurrent, projection, cell_clip=CLIP, projection_clip=CLIP)[0]

    return {
        "pkernels": ours,
        "loop": lambda: looped(into(x), recurrent, projection),
        "nn.LSTM": lambda: theirs(x)[0],
    }, torch.randn(rows, steps, width)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lstm", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each case and direction")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", "LSTM with projections")
    for case in CASES:
        forwards, dout = contenders(*case)

        def ahead(f: Callable[[], Tensor]) -> None:
            with torch.no_grad():
                f()

        def both(f: Callable[[], Tensor], dout: Tensor = dout) -> None:
            f().backward(dout)

        for name, turn in (("forward", ahead), ("both", both)):
            runs = {who: (lambda f=f, turn=turn: turn(f)) for who, f in forwards.items()}
            for run in runs.values():
                run()
            times = interleave(runs, "cpu", given.seconds)
            ours = times["pkernels"].median
            shown = ", ".join(f"{who} {1e3 * t.median:.1f} ms ({t.median / ours:.2f}x)" for who, t in times.items())
            print(f"rows {case[0]}, steps {case[1]}, cells {case[2]}, state {case[3]}, {name}: {shown}", flush=True)


if __name__ == "__main__":
    main()
