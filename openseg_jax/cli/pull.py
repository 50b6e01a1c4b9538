"""`openseg pull OWNER/NAME [FOLDER]`: a model from the Hugging Face hub, checked.

Without FOLDER it goes to the hub's cache, where `--model hf:OWNER/NAME` finds it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from openseg_jax.cli.convert import check_folder_target
from openseg_jax.weights import hub
from openseg_jax.weights.folder import CONFIG_FILE, read_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("repo", help="OWNER/NAME on the hub, or OWNER/NAME@REVISION")
    parser.add_argument(
        "folder", nargs="?", help="where to copy it; an older one of ours is replaced"
    )
    parser.add_argument("--revision", help="a branch, tag or commit (default main)")


def run(args: argparse.Namespace) -> int:
    """Downloads, checks, copies, and says what came."""
    repo = args.repo.removeprefix(hub.PREFIX)
    if args.revision:
        repo = f"{repo.partition('@')[0]}@{args.revision}"
    hub.parse_name(repo)
    if args.folder:
        check_folder_target(args.folder)
    pulled = hub.pull(repo)
    if args.folder:
        pulled.copy_to(Path(args.folder))
    place = args.folder or pulled.folder
    print(f"pulled {pulled.repo} at {pulled.commit[:12]}: {len(pulled.files)} files in {place}")
    if CONFIG_FILE in pulled.files:
        provenance = read_json(pulled.folder / CONFIG_FILE).get("provenance")
        if isinstance(provenance, dict):
            print(f"licence: {provenance.get('licence')}; saw: {provenance.get('saw')}")
    model = args.folder or f"{hub.PREFIX}{repo}"
    print(f"use it: openseg segment photo.jpg --labels ... --model {model}")
    return 0
