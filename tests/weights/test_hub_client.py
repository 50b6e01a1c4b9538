"""Push and pull by the real client of the Hugging Face hub, against a hub on the loopback."""

import json

import pytest

from openseg_jax.cli import main as cli
from openseg_jax.weights import hub
from openseg_jax.weights.folder import load_folder, save_folder
from openseg_jax.weights.load import load_clip
from tests.weights.http_hub import TOKEN, serve
from tests.weights.tiny import CLIP_MU, PREPROCESS, random_params, tokenizer

TOLD = {"name": "mu", "source": "a test", "licence": "MIT", "saw": "noise"}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A running hub, with the client pointed at it and its cache in the test's folder."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    # Xet is another protocol with servers of its own; its client falls back to plain HTTP.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    disable_progress_bars()
    with serve() as (made, url):
        # Before 1.0 addresses in answers have to begin with this one.
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        api = huggingface_hub.HfApi(endpoint=url, token=TOKEN)
        monkeypatch.setattr(hub, "client", lambda: api)
        made.api, made.url = api, url
        yield made


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "mu"
    save_folder(path, CLIP_MU, random_params(CLIP_MU), PREPROCESS, tokenizer(), TOLD)
    (path / "diary.txt").write_text("mine")
    return path


def test_bits_and_fingerprint_survive_the_round(store, folder, tmp_path, capsys):
    assert cli.main(["push", str(folder), "jane/mu", "--private"]) == 0
    names = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(store.repos["jane/mu"]) == names and store.private == {"jane/mu"}
    assert store.url in capsys.readouterr().out
    assert cli.main(["pull", "jane/mu", str(tmp_path / "back")]) == 0
    for name in names[1:]:
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()
        assert not (tmp_path / "back" / name).is_symlink()
    mine = load_folder(folder).fingerprint
    assert load_folder(tmp_path / "back").fingerprint == mine
    assert load_clip("hf:jane/mu").fingerprint == mine
    # Pushed again, nothing large travels twice over the same commit.
    assert cli.main(["push", str(folder), "jane/mu"]) == 0
    told = json.loads(store.repos["jane/mu"]["config.json"])["provenance"]
    assert told == TOLD


def test_what_the_client_raises_is_one_line(store, folder, tmp_path, capsys, monkeypatch):
    import huggingface_hub

    def said(words):
        assert cli.main(words) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    assert "no such repository" in said(["pull", "jane/nothing"])
    store.api.token = "hf_wrong"
    assert "token is missing or wrong" in said(["push", str(folder), "jane/mu"])
    store.api.token = TOKEN
    assert cli.main(["push", str(folder), "jane/mu"]) == 0
    capsys.readouterr()
    assert "no such revision" in said(["pull", "jane/mu", "--revision", "v9"])
    store.damage = {"model.safetensors"}
    assert "model.safetensors" in said(["pull", "jane/mu", str(tmp_path / "back")])
    assert not (tmp_path / "back").exists()
    store.damage = set()
    assert cli.main(["pull", "jane/mu", str(tmp_path / "back")]) == 0
    gone = huggingface_hub.HfApi(endpoint="http://127.0.0.1:9", token=TOKEN)
    monkeypatch.setattr(hub, "client", lambda: gone)
    assert "no network" in said(["push", str(folder), "jane/mu"])
    assert "no network" in said(["pull", "jane/other"])
    assert cli.main(["pull", "jane/mu", str(tmp_path / "again")]) == 0, "the cache serves"
