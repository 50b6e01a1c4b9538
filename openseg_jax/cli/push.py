"""`openseg push FOLDER OWNER/NAME`: a model folder onto the Hugging Face hub, with its card.

Only the folder's own files go there (config.json, the vocabulary, safetensors), beside a README.md
made from its provenance; whatever else lies in the folder stays here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from openseg_jax.errors import UserError
from openseg_jax.eval import measures
from openseg_jax.eval.report import read_report
from openseg_jax.weights import hub
from openseg_jax.weights.card import complete_provenance, write_card
from openseg_jax.weights.folder import load_folder
from openseg_jax.weights.folder_files import check_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("folder", help="a folder that `openseg convert` or `train` wrote")
    parser.add_argument("repo", help="OWNER/NAME on the hub; made where there is none")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--licence", help="of the weights, e.g. MIT, where the folder says none")
    parser.add_argument("--source", help="where they come from, where the folder says none")
    parser.add_argument("--saw", help="what they saw in training, where the folder says none")
    parser.add_argument(
        "--evaluation", metavar="REPORT", help="report.json of `openseg evaluate` on this folder"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the card and the files; upload nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Checks everything, then uploads in one commit."""
    repo, revision = hub.parse_name(args.repo)
    if "@" in args.repo:
        raise UserError(f"repository: expected owner/name, got @{revision} too; leave it out")
    folder = Path(args.folder)
    about, names = check_folder(folder)
    given = {"licence": args.licence, "source": args.source, "saw": args.saw}
    full = complete_provenance(about.get("provenance", {}), given)
    about = {**about, "provenance": full}
    rows = _evaluation(args.evaluation, folder) if args.evaluation else []
    size = sum((folder / name).stat().st_size for name in names) / 1e6
    card = write_card(about, repo, evaluation=rows, megabytes=size)
    if args.dry_run:
        _show(folder, repo, names, card, private=args.private)
        return 0
    url = hub.push(folder, repo, about, names, card, private=args.private)
    print(f"pushed {folder} ({size:,.1f} MB, {len(names) + 1} files) to {url}")
    print(f"use it: openseg segment photo.jpg --labels ... --model {hub.PREFIX}{repo}")
    return 0


def _evaluation(path: str, folder: Path) -> list[tuple[str, str, str, float]]:
    """Reads a report's numbers; those of other weights are refused."""
    results, mine = read_report(path), load_folder(folder).fingerprint
    rows = []
    for result in results:
        models = result.provenance.get("models", ())
        if mine not in [model.get("fingerprint") for model in models if isinstance(model, dict)]:
            raise UserError(
                f"{path}: {result.benchmark} was measured on other weights than {folder}; run "
                f"openseg evaluate --model {folder} and give its report"
            )
        found = measures.measured(result)
        rows += [(result.benchmark, result.method, k, v) for k, v in found.items() if v == v]
    return rows


def _show(folder: Path, repo: str, names: list[str], card: str, *, private: bool) -> None:
    there = {path.name for path in folder.iterdir()}
    left = sorted(there - set(names))
    print(card)
    print(f"would push to {repo}{' (private)' if private else ''}:")
    for name in [hub.CARD_FILE, *names]:
        made = name == hub.CARD_FILE
        size = len(card.encode()) if made else (folder / name).stat().st_size
        print(f"  {name:<24} {size:>14,} bytes{' (made)' if made else ''}")
    if left:
        print(f"would leave here: {', '.join(left)}")
