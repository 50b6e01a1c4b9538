"""Pushing a folder and pulling it back, without a network."""

import dataclasses
import inspect
import json

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.weights import hub
from openseg_jax.weights.card import complete_provenance, write_card
from openseg_jax.weights.folder import load_folder, save_folder
from openseg_jax.weights.folder_files import check_folder
from openseg_jax.weights.load import load_clip
from tests.weights.fake_hub import FakeHub
from tests.weights.tiny import CLIP_MU, PREPROCESS, random_params, same, tokenizer

REPO = "jane/mu"
TOLD = {
    "name": "mu", "source": "https://huggingface.co/some/base", "licence": "MIT",
    "saw": "nothing: a test",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "mu"
    extras = {"maft": {"visual": {"x": np.arange(6, dtype=np.float32)}}}
    save_folder(
        path, CLIP_MU, random_params(CLIP_MU), PREPROCESS, tokenizer(), TOLD,
        {"labels": ["zebra"]}, extras=extras, extras_config={"maft": {"a": 1}},
    )  # fmt: skip
    (path / "diary.txt").write_text("private")
    (path / ".env").write_text("TOKEN=1")
    (path / "old").mkdir()
    return path


@pytest.fixture
def api(tmp_path):
    return FakeHub(tmp_path / "cache")


def push(folder, api, repo=REPO, **how):
    about, names = check_folder(folder)
    return hub.push(folder, repo, about, names, write_card(about, repo), api=api, **how)


def test_a_folder_comes_back_bit_by_bit(folder, api, tmp_path, monkeypatch):
    assert "jane/mu" in push(folder, api)
    names = ["README.md", "config.json", "maft.safetensors", "model.safetensors", "tokenizer.json"]
    assert sorted(api.repos[REPO]) == names
    pulled = hub.pull(REPO, api=api)
    assert sorted(pulled.files) == names
    pulled.copy_to(tmp_path / "back")
    for name in names[1:]:
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()
    first, back = load_clip(folder), load_clip(tmp_path / "back")
    assert back.fingerprint == first.fingerprint and back.provenance == first.provenance
    monkeypatch.setattr(hub, "client", lambda: api)
    named = load_clip(f"hf:{REPO}")
    assert named.fingerprint == first.fingerprint and named.provenance["licence"] == "MIT"
    assert same(named.extras["maft"], first.extras["maft"])


def test_all_goes_in_one_commit_and_privacy_is_asked_for(folder, api):
    push(folder, api, private=True)
    assert api.calls == ["create_repo", "create_commit"] and api.private == {REPO}


def test_what_the_person_says_goes_into_the_config(folder, api):
    about, names = check_folder(folder)
    full = complete_provenance({**TOLD, "licence": "unknown"}, {"licence": "CC0-1.0"})
    about = {**about, "provenance": full}
    hub.push(folder, REPO, about, names, write_card(about, REPO), api=api)
    assert json.loads(api.repos[REPO]["config.json"])["provenance"]["licence"] == "CC0-1.0"
    assert b"license: cc0-1.0" in api.repos[REPO]["README.md"]
    assert load_folder(folder).provenance["licence"] == "MIT"


@pytest.mark.parametrize("key", ["licence", "source", "saw"])
@pytest.mark.parametrize("value", ["", "unknown; see where", "/home/jane/x", "none", "TODO later"])
def test_nothing_goes_out_without_provenance(key, value):
    if value.startswith("/") and key != "source":
        return
    with pytest.raises(UserError, match=rf"{key}: .*--{key}"):
        complete_provenance({**TOLD, key: value}, {})
    assert complete_provenance({**TOLD, key: value}, {key: "ours"})[key] == "ours"


def test_foreign_folders_are_pulled_too(api, tmp_path, monkeypatch):
    from openseg_jax.weights import huggingface
    from openseg_jax.weights.safetensors import write_safetensors

    params = random_params(CLIP_MU)
    write_safetensors(tmp_path / "w", dict(huggingface.to_state_dict(params, CLIP_MU)))
    t, v = CLIP_MU.text, CLIP_MU.vision
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "quick_gelu"}
    about = {
        "model_type": "clip", "projection_dim": 16,
        "text_config": {"vocab_size": t.vocab_size, "hidden_size": t.width,
                        "intermediate_size": t.mlp_width, "max_position_embeddings": 16, **sizes},
        "vision_config": {"hidden_size": v.width, "intermediate_size": v.mlp_width,
                          "image_size": 32, "patch_size": 8, **sizes},
    }  # fmt: skip
    tokenizer().save(tmp_path)
    api.repos["some/clip"] = {
        "config.json": json.dumps(about).encode(),
        "preprocessor_config.json": b'{"size": 32}',
        "tokenizer.json": (tmp_path / "tokenizer.json").read_bytes(),
        "model.safetensors": (tmp_path / "w").read_bytes(),
        "pytorch_model.bin": b"not wanted",
        "deep/other.safetensors": b"not wanted",
        "train.py": b"not wanted",
    }
    monkeypatch.setattr(hub, "client", lambda: api)
    loaded = load_clip("hf:some/clip@main")
    assert same(loaded.params, params)
    assert loaded.provenance["source"].startswith("https://huggingface.co/some/clip/tree/")
    assert not list(api.cache.rglob("pytorch_model.bin")) and not list(api.cache.rglob("*.py"))
    api.repos["some/data"] = {"train.csv": b"1"}
    with pytest.raises(UserError, match=r"expected a model .* none among its 1 files"):
        load_clip("hf:some/data")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "maft.safetensors"])
def test_a_file_that_arrives_changed_is_refused(folder, api, tmp_path, name):
    push(folder, api)
    api.spoil = {name}
    with pytest.raises(UserError, match=rf"{name}"):
        hub.pull(REPO, api=api)


def test_a_file_that_does_not_arrive_is_told(folder, api, monkeypatch):
    push(folder, api)
    real = api.snapshot_download

    def cut(repo, **how):
        files = {n: d for n, d in api.repos[repo].items() if n != "model.safetensors"}
        with monkeypatch.context() as patch:
            patch.setitem(api.repos, repo, files)
            return real(repo, **how)

    monkeypatch.setattr(api, "snapshot_download", cut)
    with pytest.raises(UserError, match=r"model\.safetensors: did not arrive"):
        hub.pull(REPO, api=api)


def test_a_config_that_names_other_places_is_refused(folder, api):
    push(folder, api)
    about = json.loads(api.repos[REPO]["config.json"])
    about["extras"] = {"../../evil": {}}
    api.repos[REPO]["config.json"] = json.dumps(about).encode()
    with pytest.raises(UserError, match="names of plain files"):
        hub.pull(REPO, api=api)
    about["extras"] = {"lost": {}}
    api.repos[REPO]["config.json"] = json.dumps(about).encode()
    with pytest.raises(UserError, match=r"lost\.safetensors is missing there"):
        hub.pull(REPO, api=api)


def hub_error(kind, status):
    """An error as the installed client raises it, whichever library carries it."""
    import huggingface_hub.errors as errors

    made = getattr(errors, kind)
    response = type("Response", (), {"status_code": status, "headers": {}, "request": None})()
    error = made.__new__(made)
    Exception.__init__(error, f"{status} Client Error: no\nRequest ID: 1")
    error.response = response
    return error


CASES = [
    (lambda: hub_error("RepositoryNotFoundError", 401), "no such repository, or it is private"),
    (lambda: hub_error("RepositoryNotFoundError", 404), "no such repository, or it is private"),
    (lambda: hub_error("GatedRepoError", 403), "access is gated"),
    (lambda: hub_error("RevisionNotFoundError", 404), "no such revision"),
    (lambda: hub_error("HfHubHTTPError", 401), "token is missing or wrong"),
    (lambda: hub_error("HfHubHTTPError", 403), "the token may not do that"),
    (lambda: hub_error("HfHubHTTPError", 429), "asks to wait"),
    (lambda: hub_error("HfHubHTTPError", 500), "answered 500 (500 Client Error: no)"),
    (lambda: ConnectionError("name or service not known"), "no network to the hub"),
    (lambda: OSError(28, "No space left on device"), "No space left"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1])
def test_errors_of_the_hub_are_one_line(folder, api, case):
    push(folder, api)
    make, says = case
    for name, doing in (("create_repo", "push to"), ("model_info", "pull")):
        api.fails = {name: make()}
        with pytest.raises(UserError) as caught:
            push(folder, api) if doing == "push to" else hub.pull(REPO, api=api)
        assert str(caught.value).startswith(f"cannot {doing} {REPO}: ")
        assert says in str(caught.value) and "\n" not in str(caught.value)


def test_without_a_network_the_cache_serves(folder, api):
    push(folder, api)
    first = hub.pull(REPO, api=api)
    api.fails = {"model_info": ConnectionError("no route")}
    again = hub.pull(REPO, api=api)
    assert again.folder == first.folder and sorted(again.files) == sorted(first.files)


@pytest.mark.parametrize("gone", ["model.safetensors", "tokenizer.json"])
def test_a_part_in_the_cache_is_no_model(folder, api, gone):
    push(folder, api)
    first = hub.pull(REPO, api=api)
    (first.folder / gone).unlink()
    (first.folder / "vocab.txt").write_text("of another program")
    api.fails = {"model_info": ConnectionError("no route")}
    with pytest.raises(UserError, match="no network to the hub"):
        hub.pull(REPO, api=api)


@pytest.mark.parametrize(
    "name", ["mu", "a/b/c", "a/../b", "https://huggingface.co/a/b", "a/b.git", "", "a b/c", "a/-"]
)
def test_bad_names_are_told_before_anything_is_asked(api, name):
    with pytest.raises(UserError, match="repository: expected owner/name"):
        hub.pull(name, api=api)
    with pytest.raises(UserError, match="revision: expected"):
        hub.pull("a/b@../../x", api=api)
    assert not api.calls


def test_a_folder_that_is_not_whole_is_not_pushed(folder):
    (folder / "maft.safetensors").unlink()
    with pytest.raises(UserError, match=r"maft\.safetensors: missing"):
        check_folder(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (folder / "maft.safetensors").write_bytes(b"12345678")
    with pytest.raises(UserError, match=r"model\.safetensors: expected a complete"):
        check_folder(folder)


def test_a_config_of_another_size_is_not_pushed(folder):
    about = json.loads((folder / "config.json").read_text())
    about["model"]["embed_dim"] = 8
    (folder / "config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="do not fit the model"):
        check_folder(folder)


@pytest.mark.parametrize("key", ["provenance", "defaults"])
def test_a_config_with_a_section_of_another_kind_is_named(folder, key):
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**about, key: ["x"]}))
    with pytest.raises(UserError, match=f"{key}: expected an object, got list"):
        check_folder(folder)


def test_the_card_is_yaml_whatever_the_words_are():
    yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
    words = {
        **TOLD, "name": "a `b` [c](d) | e\n---\n# x", "licence": 'My "own": licence\n- x',
        "note": "<script>alert(1)</script>",
    }  # fmt: skip
    about = {
        "model": CLIP_MU.to_dict(), "preprocess": PREPROCESS.to_dict(),
        "tokenizer": tokenizer().to_dict(), "provenance": words, "defaults": {"labels": ['a "b"']},
    }  # fmt: skip
    card = write_card(about, REPO, evaluation=[("voc|1", "car", "miou", 0.5)], megabytes=3)
    _, head, body = card.split("---\n", 2)
    told = yaml.safe_load(head)
    assert told["license"] == "other" and told["library_name"] == "openseg_jax"
    assert told["base_model"] == "some/base" and "clip" in told["tags"]
    assert "\n---\n" not in body and "<script>" not in body
    assert "| voc\\|1 | car | miou | 0.5 |" in body and "nothing: a test" in body


def test_the_card_s_code_is_python_and_names_the_repository():
    about = {
        "model": CLIP_MU.to_dict(), "preprocess": PREPROCESS.to_dict(),
        "tokenizer": tokenizer().to_dict(), "provenance": TOLD,
        "defaults": {"labels": ["zebra", "grass"]}, "extras": {"segclip": {}},
    }  # fmt: skip
    card = write_card(about, REPO)
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert f'model="hf:{REPO}"' in code and 'method="segclip"' in code
    assert f"--method segclip --model hf:{REPO}" in card


def test_the_installed_client_has_the_calls_that_we_make():
    """The fake stands in for `HfApi`: both have to take what we give."""
    from huggingface_hub import CommitOperationAdd, HfApi

    for name in ("create_repo", "create_commit", "model_info", "snapshot_download"):
        real = inspect.signature(getattr(HfApi, name)).parameters
        fake = inspect.signature(getattr(FakeHub, name)).parameters
        assert set(fake) <= set(real), name
        must = [n for n, p in real.items() if p.default is inspect.Parameter.empty]
        assert set(must) <= set(fake), name
    assert {"path_in_repo", "path_or_fileobj"} <= set(
        field.name for field in dataclasses.fields(CommitOperationAdd)
    )
