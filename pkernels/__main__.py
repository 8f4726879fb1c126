"""``python -m pkernels info``, ``show PATTERN`` and ``support``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except ValueError as error:
        print(f"pkernels: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pkernels", description="Fused attention kernels.")
    verbs = parser.add_subparsers(required=True, metavar="info | show | support")
    info = verbs.add_parser("info", help="versions, backends and why not, instruction sets, GPU architectures")
    info.set_defaults(run=_info)
    support = verbs.add_parser("support", help="what each backend supports, as a Markdown table")
    support.set_defaults(run=_support)
    show = verbs.add_parser("show", help="draw what a pattern keeps")
    show.add_argument("pattern", help='such as "window(256, dilation=2)", causal, "prefix_lm(100)", "Band(left=4)"')
    show.add_argument("--length", type=_size, default=16, metavar="S", help="queries and keys (default: 16)")
    show.add_argument("--queries", type=_size, metavar="SQ", help="queries, if not --length")
    show.add_argument("--keys", type=_size, metavar="SK", help="keys, if not --length")
    show.add_argument("-o", "--output", type=Path, metavar="FILE", help="write an image; without it, draw as text")
    show.set_defaults(run=_show)
    return parser


def _size(value: str) -> int:
    size = int(value)
    if size < 1:
        raise argparse.ArgumentTypeError(f"a number of at least 1 is allowed, got {size}")
    return size


def _info(_: argparse.Namespace) -> int:
    from .info import render, sections

    render(sections())
    return 0


def _support(_: argparse.Namespace) -> int:
    from .support import table

    print(table())
    return 0


def _show(options: argparse.Namespace) -> int:
    from . import show

    pattern = show.parse(options.pattern)
    sq, sk = options.queries or options.length, options.keys or options.length
    if options.output is None:
        print(show.text(pattern, sq, sk))
        print(show.summary(pattern, sq, sk))
        return 0
    try:
        show.picture(pattern, sq, sk, options.output, options.pattern.strip())
    except ImportError as error:
        print(f"pkernels: images need matplotlib ({error}): pip install matplotlib", file=sys.stderr)
        return 1
    print(f"{options.output}: {show.summary(pattern, sq, sk)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
