"""The two-sided report that every load ends in: what was wanted, what came, and what was done."""

from __future__ import annotations

import dataclasses
from typing import Any

from openseg_jax.errors import UserError, describe

_SHOWN = 3


@dataclasses.dataclass
class Report:
    """What happened to each name while weights were read.

    Attributes:
        file: where the weights came from.
        parameters: numbers loaded.
        loaded: our names that were filled.
        missing: their names that were wanted and not there, with the shape wanted.
        unexpected: their names that were there and not wanted.
        mismatched: names whose shape was not the one wanted.
        ignored: unexpected names that the format is known to carry (buffers).
        reshaped, resampled, cast: what was changed on the way, with from and to.
    """

    file: str
    parameters: int = 0
    loaded: list[str] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)
    unexpected: list[str] = dataclasses.field(default_factory=list)
    mismatched: list[str] = dataclasses.field(default_factory=list)
    ignored: list[str] = dataclasses.field(default_factory=list)
    reshaped: list[str] = dataclasses.field(default_factory=list)
    resampled: list[str] = dataclasses.field(default_factory=list)
    cast: list[str] = dataclasses.field(default_factory=list)

    def check(self, name: str, found: Any, want: tuple[int, ...]) -> None:
        """Records whether the array `found` under `name` has the shape `want`."""
        shape = f"[{' '.join(map(str, want))}]"
        if found is None:
            line = f"{name} {shape}"
            if line not in self.missing:
                self.missing.append(line)
        elif tuple(found.shape) != tuple(want):
            line = f"{name}: expected {shape}, found {describe(found)}"
            if line not in self.mismatched:
                self.mismatched.append(line)

    def extra(self, name: str, found: Any, *, allowed: bool) -> None:
        """Records a name that nothing asked for."""
        (self.ignored if allowed else self.unexpected).append(f"{name} {describe(found)}")

    def took(self, target: str, source: Any, *, reshaped: bool = False) -> None:
        """Records that our parameter `target` was filled from an array like `source`."""
        self.loaded.append(target)
        if str(source.dtype) != "float32":
            self.cast.append(f"{target}: {source.dtype} to float32")
        if reshaped:
            self.reshaped.append(target)

    def raise_if_wrong(self) -> None:
        """Raises UserError naming the file and the first few names of each kind of trouble."""
        parts = [
            f"{len(names)} {kind}: {'; '.join(names[:_SHOWN])}"
            + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
            for kind, names in (
                ("missing", self.missing),
                ("with a wrong shape", self.mismatched),
                ("unexpected", self.unexpected),
            )
            if names
        ]
        if parts:
            raise UserError(
                f"{self.file}: the weights do not fit the model: {' | '.join(parts)}; "
                "check that the file is complete and that it is this architecture"
            )

    def rows(self) -> list[tuple[str, int, str]]:
        """Returns (what, how many, the first few) for a table."""
        kinds = ("missing", "unexpected", "mismatched", "ignored", "reshaped", "resampled", "cast")
        rows = [("loaded", len(self.loaded), f"{self.parameters:,} parameters")]
        for kind in kinds:
            names = getattr(self, kind)
            more = ", …" if len(names) > _SHOWN else ""
            rows.append((kind, len(names), ", ".join(names[:_SHOWN]) + more))
        return rows

    def text(self) -> str:
        """Returns the report for people, one line a kind."""
        lines = [f"{what:<10} {count:>5}  {which}" for what, count, which in self.rows()]
        return "\n".join([self.file, *lines])
