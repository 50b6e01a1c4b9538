"""Opening and running an exported folder, with JAX and NumPy alone.

Part of the run.py of exported folders: it uses nothing of this package but its neighbours here.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.export.canvas import fit, read_image, restore
from openseg_jax.export.words import BUILD, ExportError, Vocabulary, tokens_of

__all__ = ["FORMAT", "VERSION", "Exported", "Result"]

FORMAT, VERSION = "openseg_jax_export", 1
# Sentences at a time: another number would compile another program.
_FEW, _CHUNK = 8, 64
_SECTIONS = (
    "files", "fit", "inputs", "made_with", "programs", "size", "towers", "vocabulary",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Result:
    """One segmented picture.

    Attributes:
        labels: Int32[H W] at the picture's own size, 0 background, i is `names[i - 1]`.
        names: the classes. scores: name -> score in [0, 1], 0 where it was not found.
        kept: the names that were found.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    scores: dict[str, float]
    kept: tuple[str, ...]


class Exported:
    """A model without model code.

        model = load("my_export")
        model.picture("photo.jpg", ["zebra", "grass"]).labels

    Attributes:
        folder: where it lies. manifest: its manifest.json.
        size: (H, W) of the canvas that pictures are put on, pixels.
    """

    def __init__(self, folder: str | Path) -> None:
        """Opens a folder; raises ExportError where it is missing, damaged or too new."""
        self.folder = Path(folder)
        self.manifest = _manifest(self.folder)
        height, width = self.manifest["size"]
        self.size: tuple[int, int] = (height, width)
        self._programs: dict[str, Any] = {}
        self._tokenizers: dict[str, Any] = {}
        self._kept: dict[Any, Vocabulary] = {}

    def classes(
        self, names: Sequence[str] | None = None, background: Sequence[str] | None = None
    ) -> Vocabulary:
        """Encodes class names; None takes the classes that were exported, ready-made.

        Args:
            names: any words, each once.
            background: texts that may take pixels and are not reported; None takes the method's
                own, () none.
        """
        if names is None and background is None:
            return self._ready
        names = self._ready.names if names is None else names
        if isinstance(names, str):
            raise ExportError(f"names: expected a list of texts, got {names!r}; put it in a list")
        names = tuple(names)
        if not names or any(not str(name).strip() for name in names):
            raise ExportError("names: expected words, got none; name what to look for")
        if len(set(names)) < len(names):
            raise ExportError("names: a name is given twice; name every class once")
        key = (names, None if background is None else tuple(background))
        if key not in self._kept:
            recipe = self.manifest["vocabulary"]
            arrays = BUILD[recipe["kind"]](recipe, self.encode, names, background)
            # The few used last are kept.
            self._kept = dict([*self._kept.items(), (key, Vocabulary(names, arrays))][-8:])
        return self._kept[key]

    @functools.cached_property
    def _ready(self) -> Vocabulary:
        names = tuple(_read_json(self.folder / "classes.json")["names"])
        if not names:
            raise ExportError("names: this export has no classes of its own; give some")
        from safetensors.numpy import load_file

        return Vocabulary(names, load_file(self.folder / "classes.safetensors"))

    def segment(
        self,
        images: np.ndarray,
        vocabulary: Vocabulary,
        valid: np.ndarray | None = None,
        masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Segments any number of pictures that lie on the canvas already.

        Args:
            images: UInt8[B H W 3] of the canvas's size, each picture at the top left.
            vocabulary: from `classes`.
            valid: Bool[B H W], a rectangle at the top left; None means all.
            masks: Float[B M H W] in [0, 1], where the manifest lists them among the inputs.

        Returns:
            Int32[B H W] labels (0 background), Float[B C] scores, Bool[B C] what was found.
        """
        height, width = self.size
        if images.ndim != 4 or images.shape[1:] != (height, width, 3) or images.dtype != np.uint8:
            raise ExportError(
                f"images: expected uint8[B {height} {width} 3], got {images.dtype}"
                f"{list(images.shape)}; use `picture`, which fits them"
            )
        asked = self.manifest["inputs"]
        inputs: dict[str, Any] = {f"text.{name}": x for name, x in vocabulary.arrays.items()}
        inputs["image"] = images
        if "valid" in asked:
            inputs["valid"] = np.ones(images.shape[:3], bool) if valid is None else valid
        if ("masks" in asked) != (masks is not None):
            raise ExportError(
                "masks: this export names given masks; give Float[B M H W]" if masks is None
                else "masks: this export draws its own; leave them out"
            )  # fmt: skip
        if masks is not None:
            more = -masks.shape[1] % 8
            inputs["masks"] = np.pad(
                np.asarray(masks, np.float32), [(0, 0), (0, more), (0, 0), (0, 0)]
            )
        out = {name: np.array(x) for name, x in self._call("segment", inputs).items()}
        count = len(vocabulary.names)
        labels = np.where(out["labels"] > count, 0, out["labels"])
        return labels, out["scores"][:, :count], out["alive"][:, :count]

    def picture(
        self,
        image: str | Path | np.ndarray,
        labels: Sequence[str] | Vocabulary | None = None,
        background: Sequence[str] | None = None,
        masks: np.ndarray | None = None,
    ) -> Result:
        """Segments one picture of any size.

        Args:
            image: a file, or UInt8[H W 3].
            labels, background: as for `classes`, or a vocabulary from there.
            masks: Float[M H W] of the picture, see `segment`.
        """
        words = labels if isinstance(labels, Vocabulary) else self.classes(labels, background)
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ExportError(
                f"image: expected uint8[H W 3], got {pixels.dtype}{list(pixels.shape)}; convert it"
            )
        rule = self.manifest["fit"]
        canvas, valid = fit(pixels, self.size, rule)
        if masks is not None:
            drawn = np.asarray(masks, np.float32)
            if drawn.ndim != 3 or drawn.shape[1:] != pixels.shape[:2] or not len(drawn):
                raise ExportError(
                    f"masks: expected [M {pixels.shape[0]} {pixels.shape[1]}] as the picture, got "
                    f"{list(drawn.shape)}; resize them"
                )
            masks = np.stack([fit(mask, self.size, rule)[0] for mask in drawn])[None]
        found, scores, alive = self.segment(canvas[None], words, valid[None], masks)
        height, width = int(valid[:, 0].sum()), int(valid[0].sum())
        rounded = [round(float(score), 6) for score in scores[0]]
        return Result(
            restore(found[0, :height, :width], (pixels.shape[0], pixels.shape[1])),
            words.names,
            dict(zip(words.names, rounded, strict=True)),
            tuple(name for name, there in zip(words.names, alive[0], strict=True) if there),
        )

    def encode(self, tower: str, sentences: Sequence[str]) -> np.ndarray:
        """Encodes sentences by one of the manifest's `towers`: Float[n E]."""
        about = self.manifest["towers"][tower]
        if tower not in self._tokenizers:
            self._tokenizers[tower] = tokens_of(about["tokenizer"], self.folder)
        unique = {text: i for i, text in enumerate(dict.fromkeys(sentences))}
        ids = np.stack([self._tokenizers[tower](text) for text in unique])
        lengths = np.full(len(ids), ids.shape[1])
        # What follows the end of text cannot matter to these towers: their rows may be cut.
        for length in sorted(about["lengths"], reverse=True):
            lengths = np.where(ids.argmax(axis=1) < length, length, lengths)
        out = np.empty((len(ids), about["width"]), np.float32)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            size = _CHUNK if len(rows) > _FEW else _FEW
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                padded = np.concatenate([part, np.full(size - len(part), part[0])])
                vectors = self._call(about["program"], {"ids": ids[padded, :length]})["vectors"]
                out[part] = np.asarray(vectors)[: len(part)]
        return out[[unique[text] for text in sentences]]

    def _call(self, program: str, inputs: dict[str, Any]) -> Any:
        if program not in self._programs:
            self._programs[program] = self._load(program)
        params, call = self._programs[program]
        try:
            return jax.block_until_ready(call(params, inputs))
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if "StableHLO" in str(error):
                raise self._unreadable(program, error) from error
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise ExportError(
                f"out of memory with {len(inputs.get('image', ()))} pictures at once; segment "
                "fewer at a time, or export a smaller --size"
            ) from error

    def _load(self, name: str) -> tuple[dict[str, Any], Any]:
        here, entries = _platform(), self.manifest["programs"][name]
        made = [platform for entry in entries for platform in entry["platforms"]]
        if here not in made:
            raise ExportError(
                f"platform: exported for {', '.join(made)}, and JAX runs on {here} here; set "
                f"JAX_PLATFORMS, or export again with --platforms {here}"
            )
        entry = next(entry for entry in entries if here in entry["platforms"])
        from jax import export
        from safetensors import safe_open

        try:
            program = export.deserialize(bytearray((self.folder / entry["file"]).read_bytes()))
        except ImportError as error:
            raise ExportError(f"{error}; run: pip install flatbuffers") from error
        except Exception as error:  # JAX raises whatever it meets in what it cannot read
            raise self._unreadable(name, error) from error
        with safe_open(self.folder / "params.safetensors", "numpy") as file:
            params = {key: jnp.asarray(file.get_tensor(f"{name}/{key}")) for key in entry["params"]}
        return params, jax.jit(program.call)

    def _unreadable(self, name: str, error: Exception) -> ExportError:
        made_with = self.manifest["made_with"]["jax"]
        return ExportError(
            f"{self.folder}: JAX {jax.__version__} cannot read the program {name!r} of JAX "
            f"{made_with} ({_short(error)}); take that JAX or a newer one, or export the model "
            "again"
        )


def _platform() -> str:
    """Returns what JAX exports call the platform of this process."""
    here = jax.default_backend()
    if here != "gpu":
        return here
    version = jax.local_devices()[0].client.platform_version.lower()
    return "rocm" if "rocm" in version else "cuda"


def _manifest(folder: Path) -> dict[str, Any]:
    """Reads a folder's manifest and checks that its files are those that were written."""
    manifest = _read_json(folder / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise ExportError(f"{folder}: expected an exported model; write one with openseg export")
    if manifest.get("version") != VERSION:
        raise ExportError(
            f"{folder}: expected format version {VERSION}, got {manifest.get('version')}; use the "
            "run.py that lies in the folder"
        )
    lacking = [key for key in _SECTIONS if key not in manifest]
    if lacking:
        raise ExportError(f"{folder}: manifest.json has no {lacking[0]!r}; copy the folder again")
    try:
        for name, about in manifest["files"].items():
            if _digest(folder / name) != about["blake2b"]:
                raise ExportError(f"{folder / name}: is damaged; copy or export the folder again")
    except OSError as error:
        raise ExportError(f"{error.filename}: {error.strerror}; copy the whole folder") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{folder}: manifest.json is damaged ({_short(error)})") from error
    return manifest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, hashlib.blake2b).hexdigest()[:32]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(
            f"{path}: cannot be read ({error.strerror}); give a folder that openseg export wrote"
        ) from error
    except ValueError as error:
        raise ExportError(f"{path}: is damaged ({_short(error)}); copy it again") from error
    if not isinstance(data, dict):
        raise ExportError(f"{path}: expected a JSON object; copy it again")
    return data


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]
