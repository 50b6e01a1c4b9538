"""`openseg summary`: what a training did, or has done so far, in one page of Markdown."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    parser.add_argument("workdir", help="the --workdir of `openseg train`; it may be running")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    from openseg_jax.train.summary import summarize

    print(summarize(args.workdir), end="")
    return 0
