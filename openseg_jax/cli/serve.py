"""Serve a local web page: upload a picture, write labels, see the masks and how they came about.

The page answers on this machine only, unless --host says otherwise, and nothing is fetched from or
sent to anywhere. Visitors choose among the models that are named here; they cannot name a file.
"""

from __future__ import annotations

import argparse
import sys

from openseg_jax.web.limits import Limits
from openseg_jax.web.server import Options, serve

_LIMITS = Limits()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `openseg serve`."""
    where = parser.add_argument_group("where")
    where.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="0.0.0.0 lets other machines in (%(default)s)",
    )  # fmt: skip
    where.add_argument(
        "--port", type=int, default=7860, metavar="N", help="0 takes a free one (%(default)s)"
    )
    what = parser.add_argument_group("what visitors may use")
    what.add_argument(
        "--model", nargs="+", action="extend", default=[], metavar="NAME",
        help="names or folders of weights besides the miniature, the first of them chosen when the "
        "page opens; see openseg models",
    )  # fmt: skip
    what.add_argument(
        "--sam", nargs="+", action="extend", default=[], metavar="NAME",
        help="names or folders of SAM weights, for CaR's masks",
    )  # fmt: skip
    bounds = parser.add_argument_group("limits")
    bounds.add_argument(
        "--queue", type=int, default=32, metavar="N", help="requests that may wait (%(default)s)"
    )
    bounds.add_argument(
        "--at-once", type=int, default=1, metavar="N", help="worked on together (%(default)s)"
    )
    for name, kind, text in (
        ("upload_mb", float, "size of a file, MB"),
        ("megapixels", float, "size of a picture, million pixels"),
        ("labels", int, "labels at a time"),
        ("max_side", int, "segment at most at this long side, pixels"),
    ):
        bounds.add_argument(
            f"--max-{name.removeprefix('max_').replace('_', '-')}", dest=name, type=kind,
            default=getattr(_LIMITS, name), metavar="N", help=f"{text} (%(default)s)",
        )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Runs `openseg serve`."""
    limits = Limits(
        upload_mb=args.upload_mb, megapixels=args.megapixels, labels=args.labels,
        max_side=args.max_side,
    )  # fmt: skip
    options = Options(
        host=args.host, port=args.port, models=args.model, sam=args.sam, limits=limits,
        queue=args.queue, at_once=args.at_once,
    )  # fmt: skip

    def ready(url: str) -> None:
        print(f"openseg serve: {url} (Ctrl-C ends it)", flush=True)
        if args.host not in ("127.0.0.1", "localhost", "::1"):
            print(
                "openseg: note: whoever reaches this address may use the page; it asks for no "
                "password",
                file=sys.stderr,
            )

    serve(options, ready=ready)
    return 0
