"""The page: what stands where, and what happens on a click. The one file full of gradio."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import themes

from openseg_jax.errors import UserError
from openseg_jax.types import UInt8
from openseg_jax.web import controls, limits, viewer
from openseg_jax.web.examples import example, examples
from openseg_jax.web.html import join, picture_uri, text
from openseg_jax.web.inside_html import facts, inside
from openseg_jax.web.models import Models, Programs
from openseg_jax.web.work import Task, segment

__all__ = ["Service", "build", "looks"]

_HERE = Path(__file__).parent
_FIRST_SIDE = 384
_LEAST_SIDE = 64
# Said where the miniature is the only model, and where others are there, the first of them chosen.
_ALONE = (
    "The bundled <b>miniature</b> model knows only its own drawn world of 30 things, like the "
    "examples. Photographs need real weights: start with <code>openseg serve --model NAME</code>."
)
_AMONG_OTHERS = (
    "The examples are scenes of the drawn world that the bundled <b>miniature</b> model knows: "
    "choose it for them."
)


@dataclasses.dataclass(frozen=True)
class Service:
    """What a page works with.

    Attributes:
        models: that may be chosen. programs: counts what is compiled.
        limits: of a request.
        at_once: requests that are worked on at the same time.
    """

    models: Models
    programs: Programs
    limits: limits.Limits
    at_once: int = 1


def looks() -> dict[str, Any]:
    """Returns the theme and style of the page: system fonts, nothing from elsewhere."""
    theme = themes.Default(
        primary_hue="teal", neutral_hue="stone",
        font=["ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
        radius_size="lg",
    )  # fmt: skip
    return {"theme": theme, "css": (_HERE / "page.css").read_text(encoding="utf-8")}


def build(service: Service) -> gr.Blocks:
    """Lays out the page.

    Args:
        service: what it works with.
    Returns:
        the page, not yet served.
    """
    page = gr.Blocks(title="openseg_jax", analytics_enabled=False, delete_cache=(300, 3600))
    with page:
        gr.HTML("<h1>openseg_jax</h1><p>Segment a picture by any words.</p>", elem_id="os-head")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                picture = _picture(service.limits)
                chooser = gr.HTML(
                    _examples(alone=len(service.models.table) == 1),
                    elem_id="os-choose",
                    js_on_load=_script("examples.js"),
                    apply_default_css=False,
                )
                words = gr.Textbox(
                    label="Labels", lines=2, elem_id="os-labels", placeholder="zebra, grass",
                    info='separated by commas; synonyms in quotes: "person, people"',
                    max_length=service.limits.text_chars,
                )  # fmt: skip
                go = gr.Button("Segment", variant="primary", elem_id="os-go")
                method, model, knobs, panels = _choices(service)
                background, texts, side = _general(service)
            with gr.Column(scale=8, min_width=340):
                view = gr.HTML(
                    viewer.EMPTY,
                    elem_id="os-result",
                    js_on_load=_script("viewer.js"),
                    apply_default_css=False,
                )
                with gr.Tabs():
                    with gr.Tab("Inside the method", id="inside"):
                        within = gr.HTML(
                            _no_result(),
                            elem_id="os-inside",
                            js_on_load=None,
                            apply_default_css=False,
                        )
                    with gr.Tab("Notes and provenance", id="facts"):
                        about = gr.HTML(
                            _no_result(), elem_id="os-about", elem_classes=["os-facts"],
                            js_on_load=None, apply_default_css=False,
                        )  # fmt: skip
        inputs: list[Any] = [
            picture,
            words,
            method,
            model,
            background,
            texts,
            side,
            *knobs.values(),
        ]
        run: dict[str, Any] = {
            "fn": _runner(service, list(knobs)), "inputs": inputs,
            "outputs": [view, within, about], "concurrency_limit": service.at_once,
            "concurrency_id": "segment", "trigger_mode": "always_last", "show_progress_on": view,
        }  # fmt: skip
        go.click(**run, api_name="segment", api_visibility="public")
        words.submit(**run, api_visibility="private")
        clicked = gr.State(0.0)
        chosen = chooser.click(
            _choose, clicked, [picture, words, clicked], api_visibility="private",
            show_progress="hidden", trigger_mode="multiple",
        )  # fmt: skip
        chosen.success(**{**run, "trigger_mode": "multiple"}, api_visibility="private")
        shown = [*panels.values(), *knobs.values()]
        gr.on(
            [method.change, model.change], _follow(service, list(panels), list(knobs)),
            [method, model], shown, api_visibility="private", show_progress="hidden",
        )  # fmt: skip
        background.change(
            lambda choice: gr.update(visible=choice == limits.BACKGROUNDS[2]), background, texts,
            api_visibility="private", show_progress="hidden",
        )  # fmt: skip
    return page


def _picture(bounds: limits.Limits) -> gr.Image:
    picture = gr.Image(
        label="Picture", type="filepath", image_mode=None, sources=["upload", "clipboard"],
        format="png",  # what examples are handed over as: every pixel as it was
        height=250, elem_id="os-picture", buttons=["fullscreen"],
    )  # fmt: skip

    def read(payload: Any) -> UInt8[Any, "H W 3"] | None:
        # In place of gradio's own reading, which decodes before it asks for the size.
        if payload is None:
            return None
        with _friendly():
            return limits.picture_of(payload.path, payload.orig_name or "picture", bounds)

    picture.preprocess = read  # type: ignore[method-assign]
    return picture


def _choices(service: Service) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    """Lays out method, model, and the settings of each method in a panel of its own."""
    names = list(service.models.table)
    method = gr.Radio(
        [(line.split(":")[0], name) for name, line in controls.METHODS.items()], value="car",
        label="Method", elem_id="os-method",
    )  # fmt: skip
    model = gr.Dropdown(
        names, value=names[0], label="Model", elem_id="os-model", interactive=len(names) > 1
    )
    knobs: dict[str, Any] = {}
    panels: dict[str, Any] = {}
    with gr.Accordion("Settings of the method", open=False, elem_id="os-settings"):
        for name, line in controls.METHODS.items():
            with gr.Column(visible=name == "car") as panels[name]:
                gr.HTML(
                    f'<p class="os-hint">{text(line)}.</p>',
                    js_on_load=None,
                    apply_default_css=False,
                )
                for control in controls.controls_of(name, tuple(service.models.sam)):
                    knobs[control.key] = _knob(control)
    for name in controls.METHODS:
        for key, value in _first_values(service, name).items():
            knobs[key].value = value
    return method, model, knobs, panels


def _knob(control: controls.Control) -> Any:
    about: dict[str, Any] = {
        "label": control.label, "info": control.info, "elem_id": f"os-{control.key}"
    }  # fmt: skip
    if control.several:
        return gr.CheckboxGroup(list(control.choices), **about)
    if control.choices:
        return gr.Dropdown(list(control.choices), value=control.choices[0], **about)
    return gr.Slider(control.low, control.high, step=control.step, **about)


def _general(service: Service) -> tuple[Any, Any, Any]:
    with gr.Accordion("Background and size", open=False, elem_id="os-general"):
        background = gr.Radio(
            list(limits.BACKGROUNDS), value="default", label="Background", elem_id="os-background",
            info="texts that may take pixels and are not reported; default: the method's own",
        )  # fmt: skip
        texts = gr.Textbox(
            label="Own background texts", value="", visible=False, elem_id="os-background-texts",
            placeholder="sky, water", max_length=service.limits.text_chars,
        )  # fmt: skip
        most = max(service.limits.max_side, _LEAST_SIDE)
        side = gr.Slider(
            _LEAST_SIDE, most, value=min(_FIRST_SIDE, most), step=16, label="Longest side",
            info="larger pictures are segmented at this size; masks keep the picture's own",
            elem_id="os-side",
        )  # fmt: skip
    return background, texts, side


def _values(service: Service, method: str, model: str) -> dict[str, Any]:
    """Returns what a method's settings are on given weights, as the page shows them."""
    config: Any = getattr(service.models.segmenter(method, model, {}), "config", None)
    return {
        control.key: control.shown(getattr(config, control.setting))
        for control in controls.controls_of(method, tuple(service.models.sam))
    }


def _first_values(service: Service, method: str) -> dict[str, Any]:
    """Returns a method's settings on the first weights that can serve it, none where none can."""
    for model in service.models.table:
        try:
            return _values(service, method, model)
        except UserError:  # said when somebody chooses the two together
            continue
    return {}


def _follow(service: Service, panels: list[str], knobs: list[str]) -> Callable[..., Any]:
    def follow(method: str, model: str) -> list[Any]:
        """Shows the settings of the chosen method with the chosen weights' own values."""
        with _friendly():
            values = _values(service, method, model)
            seen = [gr.update(visible=name == method) for name in panels]
            return seen + [
                gr.update(value=values[key]) if key in values else gr.skip() for key in knobs
            ]

    return follow


def _choose(event: gr.EventData, last: float) -> tuple[Any, Any, float]:
    """Puts an example in place, unless one that was clicked later is there: requests overtake."""
    at = getattr(event, "at", None)
    at = at if isinstance(at, int | float) else last
    if at < last:
        return gr.skip(), gr.skip(), last
    with _friendly():
        found = example(getattr(event, "example", None))
    return found.image, ", ".join(found.labels), at


def _runner(service: Service, knobs: list[str]) -> Callable[..., Any]:
    bounds = service.limits

    def run(
        picture: Any,
        labels: str,
        method: str,
        model: str,
        background: str,
        background_texts: str,
        longest_side: float,
        *settings: Any,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str, str]:
        """Segments a picture; returns HTML: the result, what went on inside, and the facts."""
        with _friendly(service.models):
            if picture is None:
                raise UserError("picture: choose one first, or click an example")
            names, merged = limits.labels_of(labels or "", bounds)
            shown = {
                key.split(".", 1)[1]: value
                for key, value in zip(knobs, settings, strict=True)
                if key.startswith(f"{method}.") and value is not None
            }
            task = Task(
                image=picture, names=names, merged=merged, method=method, model=model,
                settings=controls.settings_of(method, shown, service.models.sam),
                background=limits.background_of(background, background_texts or "", bounds),
                max_side=min(int(longest_side), bounds.max_side),
            )  # fmt: skip
            told = itertools.count(1)

            def tell(line: str) -> None:
                # How long it takes is not known; each line brings the bar closer to its end.
                progress(1 - 0.8 ** next(told), desc=line)

            answer = segment(task, service.models, service.programs, tell)
            return viewer.view(answer.result), inside(answer), facts(answer)

    return run


class _friendly:
    """Turns mistakes into what gradio shows: one line, never a traceback."""

    def __init__(self, models: Models | None = None) -> None:
        self._models = models

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Raises gradio's own error in place of any other."""
        if error is None or isinstance(error, gr.Error) or not isinstance(error, Exception):
            return
        if isinstance(error, UserError):
            line, title = str(error), "Please change something"
        elif isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            line = "out of memory; give fewer labels or a smaller longest side"
            title = "Too large for this machine"
        else:
            traceback.print_exception(error, file=sys.stderr)
            line = "an internal error; the server's terminal says more"
            title = "That is our fault"
        if self._models is not None:
            line = self._models.veiled(line)
        raise gr.Error(text(line), title=title, duration=20, print_exception=False) from error


def _examples(*, alone: bool) -> str:
    buttons = join(
        f'<button type="button" data-example="{place}" title="{text(", ".join(found.labels))}" '
        f'aria-label="example: {text(found.caption)}">'
        f'<img alt="" src="{picture_uri(found.image)}"></button>'
        for place, found in enumerate(examples())
    )
    hint = _ALONE if alone else _AMONG_OTHERS
    return f'<p class="os-hint">{hint}</p><div class="os-examples">{buttons}</div>'


def _no_result() -> str:
    return '<p class="os-say">Nothing has been segmented yet.</p>'


def _script(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
