"""Packaging. `configs/` and `data/` install as `openseg_jax.configs` and `openseg_jax.data`."""

from pathlib import Path

from setuptools import find_packages, setup

README = Path(__file__).with_name("README.md")

CORE = [
    "jax>=0.10,<0.13",
    "flax>=0.12",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.11.30,<0.13",
    "ml_collections>=1.0",
    "clu>=0.0.12",
    "grain>=0.2.12",
    "jaxtyping>=0.2.34",
    "absl-py>=2.0",
    "numpy>=1.26",
    "scipy>=1.11",
    "pillow>=10.0",
    "scikit-image>=0.22",
    "tokenizers>=0.20",
    "sentencepiece>=0.2.0",
    "safetensors>=0.4.5",
    "huggingface_hub>=0.25",
    "rich>=13.0",
]

EXTRAS = {
    "tpu": ["jax[tpu]>=0.10,<0.13"],
    # `openseg plan` compiles for TPUs on machines without one: the libtpu that each jax pins.
    "tpu-plan": ["jax[tpu]>=0.10,<0.13"],
    "cuda12": ["jax[cuda12]>=0.10,<0.13"],
    "cuda13": ["jax[cuda13]>=0.10,<0.13"],
    # Event files are written with its parts; training without it writes JSON lines and PNG files.
    # clu's own writers (watch.writer=clu) need TensorFlow beside it: pip install tensorflow-cpu.
    "train": ["tensorboard>=2.18"],
    # Work folders in gs:// (orbax and etils reach them through gcsfs).
    "gcs": ["etils[epath-gcs]>=1.9"],
    # TFDS 4.9.10 imports importlib_resources without asking for it.
    "data": ["tensorflow-datasets>=4.9.7", "importlib_resources>=6.0"],
    # `openseg serve`.
    "web": ["gradio>=6.0"],
    # `jax.export` writes with it and does not ask for it.
    "export": ["flatbuffers>=24.3"],
    # The documentation site: mkdocs serve.
    "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.27", "latex2mathml>=3.77"],
    "test": [
        "tensorboard>=2.18",
        "flatbuffers>=24.3",
        "pytest>=8.0",
        "pytest-xdist>=3.5",
        "beartype>=0.18",
        "ruff>=0.6",
        "pyright[nodejs]>=1.1.380",
    ],
    # The page in a real browser (any Chromium that is installed), the notebooks in a real kernel.
    "test-people": ["playwright>=1.48", "nbclient>=0.10", "ipykernel>=6.29"],
    # TFDS's own builder test; building and reading TFDS data sets needs no TensorFlow.
    "test-builders": [
        "tensorflow-datasets>=4.9.7",
        "importlib_resources>=6.0",
        "tensorflow-cpu>=2.18",
        "dill>=0.3.8",
    ],
    # Parity with torch implementations. Test only: the library itself never imports torch.
    "parity": ["torch>=2.2", "transformers>=4.45"],
}

setup(
    name="openseg_jax",
    version="0.1.0",
    description="Open-vocabulary segmentation in JAX: CLIP, CaR, MAFT and SegCLIP on one core",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["openseg_jax", "openseg_jax.*"])
    + [
        "openseg_jax.configs",
        "openseg_jax.configs.eval",
        "openseg_jax.data",
        "openseg_jax.data.prepare",
        "openseg_jax.data.builders",
    ],
    package_dir={"openseg_jax.configs": "configs", "openseg_jax.data": "data"},
    package_data={
        "openseg_jax": ["py.typed"],
        "openseg_jax.web": ["*.js", "*.css"],
        "openseg_jax.text": ["*.gz", "*.txt"],
        "openseg_jax.miniature": ["weights/*"],
        "openseg_jax.data": ["vocabularies/*.txt", "splits/*.json", "*.json", "*.md"],
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["openseg = openseg_jax.cli.main:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
