"""What went on inside a method, as HTML: CaR's steps, MAFT's proposals, SegCLIP's groups."""

from __future__ import annotations

import json

import numpy as np

from openseg_jax.api import Segmentation
from openseg_jax.inputs.images import fit_long_side
from openseg_jax.methods.car_trace import Step, StepText
from openseg_jax.methods.segclip_groups import Window
from openseg_jax.types import Bool, UInt8
from openseg_jax.web.html import bar, figure, join, number, sampled, spotlight, text
from openseg_jax.web.insides import Insides
from openseg_jax.web.work import Answer

__all__ = ["facts", "inside"]

_MOST_TEXTS = 40
_MOST_WINDOWS = 6


def inside(answer: Answer) -> str:
    """Writes what went on inside; a method that shows nothing gets one sentence."""
    found: Insides = answer.insides
    if found.steps:
        return _steps(found.steps)
    if found.proposals:
        return _proposals(found, answer.result)
    if found.windows:
        return _windows(found.windows)
    return (
        '<p class="os-say">This method is a single pass: every patch is compared with every '
        "label, and nothing happens in between.</p>"
    )


def facts(answer: Answer) -> str:
    """Writes notes and provenance."""
    result = answer.result
    notes = join(f"<li>{text(note)}</li>" for note in result.notes)
    models = join(
        f"<li>{text(m.get('name', 'weights'))}: {text(m.get('source', 'source unknown'))}, licence "
        f"{text(m.get('licence', 'unknown'))}; saw {text(m.get('saw', 'unknown'))}; fingerprint "
        f"<code>{text(m.get('fingerprint', ''))}</code></li>"
        for m in result.record.get("models", ())
    )
    record = {k: v for k, v in result.record.items() if k != "models"}
    lines = json.dumps(record, ensure_ascii=False, indent=1, default=str).splitlines()
    code = "\n".join(" " * (len(x) - len(x.lstrip())) + text(x.strip()) for x in lines)
    return (
        (f'<h4>Notes</h4><ul class="os-notes">{notes}</ul>' if notes else "")
        + f'<h4>Weights</h4><ul class="os-models">{models}</ul>'
        f'<p class="os-say">{answer.seconds:.1f} s on {text(result.record.get("device", ""))}, '
        f"openseg_jax {text(result.record.get('openseg_jax', ''))}.</p>"
        f"<details><summary>Settings and sizes</summary><pre>{code}</pre></details>"
    )


def _steps(steps: list[Step]) -> str:
    parts = [
        '<p class="os-say">Each step draws a mask for every label that is left, points CLIP at it '
        "with the visual prompt, and scores the label there. Labels at or below the threshold "
        "(the mark on the bars) are dropped, and the rest compete again, until none is "
        "dropped.</p>"
    ]
    return join(parts + [_step(step) for step in steps])


def _step(step: Step) -> str:
    stay = len(step.texts) - len(step.dropped)
    if step.last:
        outcome = "nothing is dropped: these masks are the result"
    else:
        outcome = f"{stay} stay, {len(step.dropped)} dropped"
    order = sorted(step.texts, key=lambda t: -t.score)
    shown, hidden = order[:_MOST_TEXTS], order[_MOST_TEXTS:]
    rest = f'<li class="os-more">and {len(hidden)} more below</li>' if hidden else ""
    rescued = (
        '<p class="os-say">No label exceeded the threshold; the best one stays all the same.</p>'
        if step.rescued
        else ""
    )
    figures = join(
        '<div class="os-pair">'
        + figure(drawing.prompted, _caption(drawing.text, step.threshold), kind="os-prompted")
        + figure(_mask(drawing.mask), "mask", kind="os-mask")
        + "</div>"
        for drawing in step.drawings
    )
    return (
        f'<section class="os-step" data-step="{step.number}"><h4>Step {step.number} '
        f"<small>{len(step.texts)} in; {outcome}</small></h4>{rescued}"
        f'<ul class="os-texts">{join(_line(t, step.threshold) for t in shown)}{rest}</ul>'
        f'<div class="os-figures">{figures}</div></section>'
    )


def _line(item: StepText, threshold: float) -> str:
    state = "stays" if item.kept else "dropped"
    return (
        f'<li class="os-{state}" data-name="{text(item.name)}"><span>{text(item.name)}</span>'
        f"{bar(item.score, threshold)}<em>{_why(item, threshold)}</em></li>"
    )


def _why(item: StepText, threshold: float) -> str:
    score = number(item.score)
    if item.score > np.float32(threshold):
        return f"{score} stays"
    if item.kept:
        return f"{score} stays as the best"
    return f"{score} dropped, not above {threshold:g}"


def _caption(item: StepText, threshold: float) -> str:
    state = "stays" if item.kept else "dropped"
    return f'<b class="os-{state}">{text(item.name)}</b> {number(item.score)}'


def _mask(mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.repeat(np.where(mask, 235, 28).astype(np.uint8)[..., None], 3, axis=-1)


def _proposals(found: Insides, result: Segmentation) -> str:
    size = found.proposals[0].mask.shape
    image = sampled(fit_long_side(result.image, max(size)), size)
    cells = join(
        figure(
            spotlight(image, p.mask),
            f"<b>{text(p.label if p.label is not None else 'a background text')}</b> "
            f"{number(p.score)}<br><small>{100 * p.area:.0f} % of the picture</small>",
            kind="os-proposal",
        )
        for p in found.proposals
    )
    return (
        f'<p class="os-say">{found.proposed} masks were proposed before any label was read. '
        f"The {len(found.proposals)} surest, each with its best label, the label's probability, "
        f"and its share of the picture:</p>"
        f'<div class="os-figures os-proposals">{cells}</div>'
    )


def _windows(windows: list[Window]) -> str:
    parts = [
        '<p class="os-say">In each window, learnt centres gather the patches into groups; each '
        "group takes its best label, or is background where that fits too little.</p>"
    ]
    told = sorted(range(len(windows)), key=lambda i: -_labelled(windows[i]))[:_MOST_WINDOWS]
    for place in sorted(told):
        window = windows[place]
        cells = [figure(window.picture, "what the model saw")]
        for group in window.groups:
            name = f"<b>{text(group.label)}</b>"
            if group.label is None:
                near = f"<br><small>nearest: {text(group.nearest)}</small>" if group.nearest else ""
                name = f"background{near}"
            cells.append(
                figure(
                    spotlight(window.picture, group.region),
                    f"{name} {number(group.score)}",
                    kind="os-group",
                )
            )
        size = f"{len(window.groups)} group{'' if len(window.groups) == 1 else 's'}"
        parts.append(
            f'<section class="os-window"><h4>Window {place + 1} <small>{size}</small></h4>'
            f'<div class="os-figures">{join(cells)}</div></section>'
        )
    if len(windows) > _MOST_WINDOWS:
        more = len(windows) - _MOST_WINDOWS
        parts.append(f'<p class="os-say">{more} windows with less in them are not shown.</p>')
    return join(parts)


def _labelled(window: Window) -> int:
    return sum(group.label is not None for group in window.groups)
