"""A hub in a folder: the few calls of `HfApi` that `weights.hub` makes, without a network."""

from __future__ import annotations

import fnmatch
import hashlib
import types
from pathlib import Path
from typing import Any


class FakeHub:
    """Keeps repositories in memory and a cache on disk.

    Attributes:
        repos: files by name, by repository. private: those that were made so.
        fails: raised by the next call of a method of that name.
        spoil: names of files that arrive with one byte changed.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.calls: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.spoil: set[str] = set()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise self.fails[name]

    def _commit(self, repo: str) -> str:
        return hashlib.sha1(repr(sorted(self.repos[repo].items())).encode()).hexdigest()

    def create_repo(self, repo_id: str, *, private: bool | None = None, exist_ok: bool = False):
        self._call("create_repo")
        assert exist_ok or repo_id not in self.repos
        if private and repo_id not in self.repos:
            self.private.add(repo_id)
        self.repos.setdefault(repo_id, {})

    def create_commit(self, repo_id: str, operations: Any, *, commit_message: str):
        self._call("create_commit")
        assert commit_message
        for one in operations:
            with one.as_file() as file:
                self.repos[repo_id][one.path_in_repo] = file.read()
        return types.SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    def model_info(
        self, repo_id: str, *, revision: str | None = None, files_metadata: bool = False
    ):
        self._call("model_info")
        siblings = []
        for name, data in sorted(self.repos[repo_id].items()):
            large = name.endswith(".safetensors")
            lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            siblings.append(
                types.SimpleNamespace(
                    rfilename=name, lfs=lfs if large else None, blob_id=None if large else blob
                )
            )
        return types.SimpleNamespace(sha=self._commit(repo_id), siblings=siblings)

    def snapshot_download(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        allow_patterns: list[str] | None = None,
        local_files_only: bool = False,
    ) -> str:
        self._call("snapshot_download")
        name = repo_id.replace("/", "--")
        if local_files_only:
            found = sorted(self.cache.glob(f"{name}/*"))
            if not found:
                raise FileNotFoundError(repo_id)
            return str(found[-1])
        folder = self.cache / name / str(revision)
        folder.mkdir(parents=True, exist_ok=True)
        for file, data in self.repos[repo_id].items():
            if any(fnmatch.fnmatch(file, p) for p in allow_patterns or ("*",)):
                if file in self.spoil:
                    data = data[:-1] + bytes([data[-1] ^ 1])
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(data)
        return str(folder)
