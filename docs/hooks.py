"""What MkDocs does not do itself: pages from elsewhere in the repository, the reference, formulas.

Every page is written for two readers: somebody who opens the file in the repository, and somebody
on the site. Links are therefore relative to the file, and are turned here into those of the site.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

log = get_plugin_logger("pages")

ROOT = Path(__file__).parents[1]
# File in the repository -> page of the site. What is not there yet is left out.
ELSEWHERE = {
    "README.md": "index.md",
    "launch/README.md": "launch/README.md",
    "launch/plans.md": "launch/plans.md",
    "launch/colab/README.md": "launch/colab/README.md",
}
# Page of the reference -> title, what stands on top, packages and modules of openseg_jax.
REFERENCE = {
    "types": (
        "Types",
        'Every annotation has the shape in letters: `Float[Array, "B H W 3"]` is a batch of '
        "pictures in floating point. The letters mean the same everywhere.",
        ("types", "errors", "files"),
    ),
    "api": (
        "Segmenting",
        "What `import openseg_jax` gives, and the functions behind `openseg segment` and "
        "`openseg classify-masks`. The same names are attributes of `openseg_jax`: `segment`, "
        "`classify_masks`, `load_segmenter`, `load_clip`, `to_label_map`, `Segmentation`, "
        "`MaskScores`, `Segmenter`, `Masks`, `CLIP`, `CLIPConfig`, `UserError`.",
        ("api", "classify", "report", "viz"),
    ),
    "methods": (
        "Methods",
        "A method is an object with `classes`, `segment` and `params`; the rest is pure "
        "functions. What each computes is told on its own page: [CaR](../car.md), "
        "[MAFT](../maft.md), [SegCLIP](../segclip.md), [dense CLIP](../clip_dense.md).",
        ("methods",),
    ),
    "models": (
        "Models",
        "The networks, as Flax linen modules. [The CLIP core](../clip.md) tells what differs "
        "between published CLIPs.",
        ("models",),
    ),
    "text_weights": (
        "Texts and weights",
        "From names to class vectors, and from files to parameters.",
        ("text", "weights"),
    ),
    "ops": (
        "Operators",
        "Pure functions on arrays. All run under `jax.jit`, and say where they do not.",
        ("ops",),
    ),
    "inputs": ("Inputs", "What is read, from pictures to data sets.", ("inputs",)),
    "train": (
        "Training",
        "Tasks say what is learnt, the loop how. [Training](../training.md) is the guide.",
        ("tasks", "train"),
    ),
    "eval": (
        "Evaluation",
        "From label maps to reports. [Evaluation](../evaluation.md) is the guide.",
        ("eval",),
    ),
    "export": (
        "Export and other libraries",
        "Programs that run without this library, and what joins it to others.",
        ("export", "compat"),
    ),
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^([ \t]*)(```|~~~).*?^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the pages that lie outside `docs`, and those of the reference."""
    for source, page in ELSEWHERE.items():
        path = ROOT / source
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=text))
    rows = []
    for name, (title, lead, parts) in REFERENCE.items():
        found = [module for part in parts for module in modules(part)]
        text = "".join(f"\n::: openseg_jax.{module}\n" for module in found)
        page = f"reference/{name}.md"
        files.append(File.generated(config, page, content=f"# {title}\n\n{lead}\n{text}"))
        rows.append(f"| [{title}]({name}.md) | {', '.join(f'`{m}`' for m in found)} |\n")
    index = (
        "# Where things are\n\nMade from the docstrings. Shapes stand in the signatures; "
        "[types](types.md) explains their letters. Names that begin with an underscore are "
        "private; imports point down [the layers](../index.md#reading-the-code).\n\n"
        f"| page | modules |\n|---|---|\n{''.join(rows)}"
    )
    files.append(File.generated(config, "reference/index.md", content=index))
    return files


def modules(part: str) -> list[str]:
    """Returns the public modules of a package of openseg_jax, `base` first, or a module's name."""
    path = ROOT / "openseg_jax" / part
    if not path.is_dir():
        return [part]
    names = [p.stem for p in path.glob("*.py") if not p.stem.startswith("_")]
    return [f"{part}.{name}" for name in sorted(names, key=lambda name: (name != "base", name))]


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Turns links between files of the repository into links of the site."""
    here = page.file.src_uri
    if page.file.generated_by and here not in ELSEWHERE.values():
        return markdown  # written for the site alone
    source = next((s for s, p in ELSEWHERE.items() if p == here), f"docs/{here}")

    def site(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        path, mark, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return match[0]
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        wanted = ELSEWHERE.get(inside) or inside.removeprefix("docs/")
        if inside in ELSEWHERE or inside.startswith("docs/"):
            if inside in ELSEWHERE and not (ROOT / inside).is_file():
                return match[0]  # MkDocs names the dead link
            back = posixpath.relpath(wanted, posixpath.dirname(here) or ".")
            return f"{picture}[{text}]({back}{mark}{anchor})"
        if not (ROOT / inside).exists():
            log.warning("%s: link to %r, which is not in the repository", source, target)
        # Code is not part of the site: what is said about it stays, the link goes.
        return text

    kept: list[str] = []
    for part in _outside_fences(markdown):
        kept.append(part if part.lstrip().startswith(("```", "~~~")) else _LINK.sub(site, part))
    return "".join(kept)


def on_page_content(content: str, *, page: Any, config: Any, files: Files) -> str:
    """Turns formulas into MathML, which browsers draw without a script."""

    def formula(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        drawn = convert(html.unescape(match[2]).strip(), display=display)
        if "\\" in drawn:
            log.warning("%s: a formula has a command that is not known: %s", page, match[2].strip())
        return drawn

    return _FORMULA.sub(formula, content)


def _outside_fences(markdown: str) -> list[str]:
    """Splits a page into text and fenced blocks, in order."""
    parts, end = [], 0
    for match in _FENCE.finditer(markdown):
        parts += [markdown[end : match.start()], match[0]]
        end = match.end()
    return [*parts, markdown[end:]]
