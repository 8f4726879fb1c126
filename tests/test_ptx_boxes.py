"""TMA on the emulator through a map within a struct, as ``csrc/cuda/boxes.h`` describes it to the driver."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.ptx import MisalignedError, PtxError, run
from tests.gpu.ptx.launch import Record

BOX = """
.extern .shared .align 1024 .b8 room[];
.visible .entry kernel(.param .align 64 .b8 given[192])
{
    .reg .b64 %w<4>; .reg .b32 %x<8>; .reg .b16 %h; .reg .pred %q<2>;
    .shared .align 8 .b64 bar;
    mov.u32 %x0, %tid.x; mov.u32 %x1, bar; mov.u32 %x2, room; mov.b64 %w0, given;
    cvta.param.u64 %w0, %w0; add.s64 %w0, %w0, AT;
    setp.ne.u32 %q0, %x0, 0; @%q0 bra READY; mbarrier.init.shared::cta.b64 [%x1], 1; READY: bar.sync 0;
    setp.lt.u32 %q0, %x0, 32; @%q0 bra WAIT;
    setp.ne.u32 %q1, %x0, 32; @%q1 bra END;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%x1], 1024;
    cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
        [%x2], [%w0, {0, 2, 1, 0}], [%x1];
    bra END;
    WAIT: mbarrier.try_wait.parity.shared::cta.b64 %q1, [%x1], 0; @!%q1 bra WAIT;
    ld.param.u64 %w1, [given+128]; mad.lo.u32 %x3, %x0, 32, %x2; mad.wide.u32 %w1, %x0, 2, %w1;
    ld.shared.b16 %h, [%x3]; st.global.b16 [%w1], %h;
    END: ret;
}"""


def boxed(x: torch.Tensor, at: int = 0) -> torch.Tensor:
    """The first number of each of 32 chunks of the box of 8 rows from row 2 of head 1 on."""
    out = torch.zeros(32, dtype=torch.int16)
    sizes, strides = [*x.shape[::-1]], [2 * step for step in x.stride()[2::-1]]
    words = torch.tensor([x.data_ptr(), *sizes, *strides, 64 | 8 << 32, 1, *[0] * 6, out.data_ptr(), *[0] * 7])
    run(BOX.replace("AT", str(at)), (1,), [Record(words.view(torch.uint8), [x, out])], 1024, 2)
    return out


def test_boxes_of_a_described_tensor() -> None:
    """Rows behind the last one are zeros, chunks are swizzled; who waits before the copy begins is woken."""
    x = torch.arange(2 * 3 * 7 * 64, dtype=torch.int16).reshape(2, 7, 3, 64).transpose(1, 2)
    wanted = torch.zeros(8, 64, dtype=torch.int16)
    wanted[:5] = x[0, 1, 2:]
    row, place = torch.arange(32) // 4, torch.arange(32) % 4 * 2
    chunks = wanted.view(8, 8, 8)[row, place ^ row, 0]
    assert torch.equal(boxed(x), chunks)


def test_maps_that_no_driver_makes_are_refused() -> None:
    x = torch.zeros(1, 2, 9, 65, dtype=torch.int16)
    with pytest.raises(PtxError, match="no driver encodes"):
        boxed(x[..., :64])
    with pytest.raises(MisalignedError, match="byte 8"):
        boxed(x[..., :64].contiguous(), 8)
