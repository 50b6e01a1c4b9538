# @title Install { display-mode: "form" }
SOURCE = ""  # @param {type:"string"}
# Does nothing where openseg_jax is installed. Else pip installs SOURCE: an address (git+https://…),
# a wheel or a folder; "" takes the clone around this notebook, else the package index. The
# runtime's JAX stays as it is: it was chosen for the accelerator and the driver under it.
import re
import subprocess
import sys
import tempfile
from importlib import invalidate_caches, metadata
from pathlib import Path

LEAST, BELOW = (0, 10), (0, 13)  # versions of JAX that openseg_jax runs with
KEPT = re.compile(r"jax|jaxlib|libtpu.*|jax-(cuda|rocm).*|numpy")


class Stop(Exception):
    def _render_traceback_(self):
        return [str(self)]


def versions():
    invalidate_caches()
    found = {re.sub(r"[-_.]+", "-", d.name).lower(): d.version for d in metadata.distributions()}
    return {name: version for name, version in found.items() if KEPT.fullmatch(name)}


def find_source():
    here = Path.cwd()
    for folder in (here, *here.parents, *sorted(here.glob("*/"))):
        if (folder / "setup.py").is_file() and (folder / "openseg_jax" / "__init__.py").is_file():
            return str(folder)
    return "openseg_jax"


def install(source):
    before = versions()
    jax = tuple(int(part) for part in re.findall(r"\d+", before.get("jax", ""))[:2])
    if jax and not LEAST <= jax < BELOW:
        raise Stop(
            f"This runtime has JAX {before['jax']}, and openseg_jax needs one from "
            f"{LEAST[0]}.{LEAST[1]} on and below {BELOW[0]}.{BELOW[1]}: take another runtime version "
            "(menu Runtime, Change runtime type), since changing JAX here would part it from its "
            "accelerator."
        )
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "constraints.txt"
        pins.write_text("".join(f"{name}=={version}\n" for name, version in before.items()))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(pins), source]
        done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise Stop(f"pip could not install {source!r} beside this JAX. " + " ".join(said[:3]))
    moved = {name for name, version in before.items() if versions().get(name) != version}
    if moved:
        names = ", ".join(sorted(moved))
        raise Stop(f"pip changed {names}, which it must not: start again with a fresh runtime.")


try:
    metadata.version("openseg_jax")
except metadata.PackageNotFoundError:
    install(SOURCE or find_source())
print(f"openseg_jax {metadata.version('openseg_jax')}, JAX {metadata.version('jax')}")
