"""Model folders on the Hugging Face hub: push one, pull one, and nothing half-done either way.

All that is asked of `huggingface_hub` goes through the few calls of `HfApi` that `push` and `pull`
make; tests stand in for those. Any release of it from 0.25 on has them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openseg_jax.errors import UserError, expected
from openseg_jax.files import atomic_folder
from openseg_jax.weights.folder import CONFIG_FILE, read_json
from openseg_jax.weights.folder_files import check_folder, file_names, is_ours

PREFIX = "hf:"
CARD_FILE = "README.md"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}")
_REVISION = re.compile(r"[\w][\w./-]{0,250}")
_TEXTS = (".json", ".txt", ".model")
_OTHERS = ("model", "open_clip_model", "open_clip_pytorch_model", "pytorch_model")


@dataclasses.dataclass(frozen=True)
class Pulled:
    """A model in the hub's cache.

    Attributes:
        repo: "owner/name".
        commit: its revision there; where the hub could not be reached, the one asked for.
        folder: of that one commit. Other programs may have put more files there.
        files: those that belong to the model.
    """

    repo: str
    commit: str
    folder: Path
    files: tuple[str, ...]

    @property
    def url(self) -> str:
        """Where people see it."""
        return f"https://huggingface.co/{self.repo}"

    def copy_to(self, target: Path) -> None:
        """Copies the files, all or none; links of the cache become files."""
        with atomic_folder(target) as aside:
            for file in self.files:
                shutil.copyfile(self.folder / file, aside / file)


def parse_name(text: str) -> tuple[str, str]:
    """Splits "owner/name" or "owner/name@revision"; revision is "main" where none is said.

    Raises:
        UserError: for anything else.
    """
    name, at, revision = text.partition("@")
    bad = any(part in name for part in ("..", "--")) or name.endswith((".git", ".", "-"))
    if not _NAME.fullmatch(name) or bad:
        raise expected(
            "repository", "owner/name, of letters, digits, '-', '_' and '.'", repr(text),
            "e.g. jane/my-clip",
        )  # fmt: skip
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise expected("revision", "a branch, tag or commit", repr(revision), "leave it out")
    return name, revision or "main"


def client() -> Any:
    """Makes the hub's client. Imported here: it takes half a second, and few runs need it."""
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    return huggingface_hub.HfApi()


def push(
    folder: Path,
    repo: str,
    config: Mapping[str, Any],
    names: Sequence[str],
    card: str,
    *,
    private: bool = False,
    api: Any = None,
) -> str:
    """Uploads a folder of ours with its card, in one commit.

    Args:
        folder: that `folder_files.check_folder` accepted.
        repo: "owner/name"; made where there is none.
        config: its config.json as it is to be published, provenance complete.
        names: its files, as `check_folder` lists them; nothing else is uploaded.
        card: README.md.
        private: of a repository that is made now; one that is there stays as it is.
        api: an `HfApi`; None makes one.

    Returns:
        The commit's address.

    Raises:
        UserError: for no network, no right to write, a bad name, or whatever the hub says.
    """
    from huggingface_hub import CommitOperationAdd

    name, _ = parse_name(repo)
    api = client() if api is None else api
    text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
    same = text.encode() == (folder / CONFIG_FILE).read_bytes()
    operations = [CommitOperationAdd(CARD_FILE, card.encode())]
    for file in names:
        plain = file != CONFIG_FILE or same
        operations.append(CommitOperationAdd(file, str(folder / file) if plain else text.encode()))
    try:
        api.create_repo(name, private=private, exist_ok=True)
        done = api.create_commit(name, operations, commit_message="Upload with openseg push")
    except Exception as error:  # the hub and what carries it raise dozens of types
        raise explain(error, name, "push to") from error
    return str(getattr(done, "commit_url", "") or f"https://huggingface.co/{name}")


def pull(repo: str, *, revision: str | None = None, api: Any = None) -> Pulled:
    """Downloads a model into the hub's cache and checks it.

    Args:
        repo: "owner/name[@revision]": a folder of ours, or one of transformers or open_clip.
        revision: a branch, tag or commit; wins over the name's.
        api: an `HfApi`; None makes one.

    Returns:
        The files in the cache. Where the hub cannot be reached they are those there, if whole.

    Raises:
        UserError: for no such repository, no access, no network and nothing in the cache, or
            files that differ from what the hub says of them.
    """
    name, said = parse_name(repo)
    revision = revision or said
    api = client() if api is None else api
    try:
        info = api.model_info(name, revision=revision, files_metadata=True)
    except Exception as error:
        pulled = _cached(api, name, revision) if _is_network(error) else None
        if pulled is None:
            raise explain(error, name, "pull") from error
        return pulled
    listed = {entry.rfilename: entry for entry in info.siblings or ()}
    try:
        # By the name of the revision, not its commit: only names are found again offline. What
        # moves in between shows in the hashes.
        folder = _fetch(api, name, revision, [CONFIG_FILE])
        wanted = _wanted(folder, listed, name)
        folder = _fetch(api, name, revision, wanted)
    except UserError:
        raise
    except Exception as error:
        raise explain(error, name, "pull") from error
    for file in wanted:
        _verify(folder / file, listed.get(file))
    if is_ours(_config(folder)):
        check_folder(folder)
    return Pulled(name, info.sha or revision, folder, tuple(wanted))


def _config(folder: Path) -> dict[str, Any]:
    return read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}


def _fetch(api: Any, name: str, revision: str, files: Sequence[str]) -> Path:
    patterns = [_literal(file) for file in files]
    return Path(api.snapshot_download(name, revision=revision, allow_patterns=patterns))


def _literal(file: str) -> str:
    """Spells a file's name as the pattern that only it matches."""
    return re.sub(r"([*?\[])", r"[\1]", file)


def _cached(api: Any, name: str, revision: str) -> Pulled | None:
    try:
        folder = Path(api.snapshot_download(name, revision=revision, local_files_only=True))
    except Exception:  # not here; why does not matter, the network's error is what is told
        return None
    there = {file.name: None for file in folder.iterdir() if file.is_file()}
    try:
        files = _wanted(folder, there, name)
        if is_ours(_config(folder)):
            check_folder(folder)
    except UserError:  # a part, as a pull leaves it that was interrupted
        return None
    return Pulled(name, revision, folder, tuple(files))


def _wanted(folder: Path, listed: Mapping[str, Any], name: str) -> list[str]:
    """Lists the files to download: exactly those of our folder, else texts and one set of weights.

    Nothing that we read lies in a subfolder; a repository may hold anything else there.
    """
    about = _config(folder)
    if is_ours(about):
        files = file_names(about, f"{name}: {CONFIG_FILE}")
        for file in files:
            if file not in listed:
                raise UserError(f"{name}: {file} is missing there; push the folder again")
        return files + [CARD_FILE] * (CARD_FILE in listed)
    top = [file for file in listed if "/" not in file and "\\" not in file]
    texts = [file for file in top if file.endswith(_TEXTS)]
    for suffix in (".safetensors", ".bin"):
        for stem in _OTHERS:
            shards = [f for f in top if re.fullmatch(rf"{stem}-\d+-of-\d+{re.escape(suffix)}", f)]
            whole = [f"{stem}{suffix}"] if f"{stem}{suffix}" in top else []
            if whole or shards:
                return texts + (whole or shards)
    raise UserError(
        f"{name}: expected a model (a folder of ours, of transformers or of open_clip), found "
        f"none among its {len(listed)} files; check the name"
    )


def _verify(path: Path, entry: Any) -> None:
    """Compares a file with the hash that the hub keeps: SHA-256 of large files, git's of others.

    Where the network goes amid a pull, the client hands over what the cache has.
    """
    if not path.is_file():
        raise UserError(f"{path.name}: did not arrive; pull again")
    lfs = getattr(entry, "lfs", None)
    sha = lfs.get("sha256") if isinstance(lfs, Mapping) else getattr(lfs, "sha256", None)
    blob = getattr(entry, "blob_id", None)
    if sha:
        digest, want = hashlib.sha256(), sha
    elif blob:
        digest, want = hashlib.sha1(f"blob {path.stat().st_size}\0".encode()), blob
    else:
        return
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    if digest.hexdigest() != want:
        # The file of the cache that a link leads to has to go as well, or it is linked again.
        for file in (path.resolve(), path):
            file.unlink(missing_ok=True)
        raise UserError(
            f"{path.name}: what arrived differs from what the hub says of it (hash "
            f"{digest.hexdigest()[:12]}, there {want[:12]}) and was removed; pull again"
        )


def _kinds(error: BaseException) -> set[str]:
    """Names the classes of an error and of what caused it: they moved between releases."""
    names: set[str] = set()
    one: BaseException | None = error
    while one is not None:
        names |= {kind.__name__ for kind in type(one).__mro__}
        one = one.__cause__ or one.__context__
    return names


def _is_network(error: BaseException) -> bool:
    return _status(error) is None and bool(
        _kinds(error)
        & {
            "ConnectionError", "ConnectError", "ConnectTimeout", "Timeout", "TimeoutException",
            "ReadTimeout", "NetworkError", "TransportError", "OfflineModeIsEnabled",
            "ProxyError", "SSLError", "gaierror",
        }
    )  # fmt: skip


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def explain(error: BaseException, repo: str, doing: str) -> UserError:
    """Turns an error of the hub's client into one line that says what to do.

    Args:
        error: whatever it raised.
        repo: "owner/name".
        doing: "push to" or "pull".
    """
    kinds, status = _kinds(error), _status(error)
    login = "log in with `hf auth login`, or set HF_TOKEN"
    if "GatedRepoError" in kinds:
        why = f"access is gated; ask for it at https://huggingface.co/{repo}, and {login}"
    elif "RevisionNotFoundError" in kinds:
        why = "there is no such revision; check --revision"
    elif "LocalTokenNotFoundError" in kinds:
        why = f"nobody is logged in; {login}"
    elif "RepositoryNotFoundError" in kinds or status == 404:
        why = f"there is no such repository, or it is private; check the name, and {login}"
    elif status == 401:
        why = f"the token is missing or wrong; {login}"
    elif status == 403:
        why = f"the token may not do that; {login} with one that may write to {repo.split('/')[0]}"
    elif status == 429:
        why = "the hub asks to wait; try again in a few minutes"
    elif status is not None:
        why = f"the hub answered {status} ({_first(error)}); try again later"
    elif _is_network(error):
        why = f"no network to the hub ({_first(error)}); try again where there is one"
    else:
        why = _first(error) + "; check the name and the disk"
    return UserError(f"cannot {doing} {repo}: {why}")


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:160]
