"""What can be wrong with archives and files: one message that names it, and nothing left behind."""

import errno
import io
import os
import tarfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from openseg_jax.data.prepare import archives, run, work
from openseg_jax.data.prepare.archives import Archive, unpack
from openseg_jax.data.prepare.run import prepare

from openseg_jax.cli import main as cli
from openseg_jax.errors import UserError
from openseg_jax.inputs.labelled_set import open_set
from tests.data import label_archives, official

FULL = OSError(errno.ENOSPC, "No space left on device")


def quiet(what, share):
    assert 0 <= share <= 1 and what


def nothing_left(root):
    """Whether there is no more than whole archives' folders: no work, nothing prepared."""
    left = [p for p in root.rglob("*") if p.name.startswith(".") and p.name != ".archive.json"]
    prepared = root / "prepared"
    return not left and not (prepared.exists() and list(prepared.iterdir()))


def fails(root, name="ade"):
    """The one line that the command prints."""
    with pytest.raises(UserError) as caught:
        prepare(name, root, workers=1)
    assert nothing_left(root)
    return str(caught.value)


def rewrite(root, change, archive="ADEChallengeData2016.zip"):
    with zipfile.ZipFile(root / archive) as old:
        files = {name: old.read(name) for name in old.namelist()}
    change(files)
    official.write_zip(root / archive, files)


TOP = "ADEChallengeData2016/annotations/validation/ADE_val_00000002.png"


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda files: files.update({TOP: label_archives.grey_png(np.full((12, 14), 151))}),
            "ADE_val_00000002.png: expected labels from 1 to 150 or 0, 255 .*got 151 at 168 pixels",
        ),
        (
            lambda files: files.update({TOP: label_archives.grey_png(np.ones((14, 12)))}),
            "ADE_val_00000002.jpg: expected the size of its labels, 12x14, got 14x12",
        ),
        (lambda files: files.pop(TOP), "no_labels"),
        (
            lambda files: files.pop(TOP.replace("annotations", "images").replace("png", "jpg")),
            r"validation/ADE_val_00000002.jpg: the picture is missing \(1 of 3 are\); unpack",
        ),
        (
            lambda files: files.update({TOP: files[TOP][:40]}),
            "ADE_val_00000002.png: cannot be read as a label map",
        ),
        (
            lambda files: files.update({TOP: official.picture((12, 14), 0, "PNG")}),
            "ADE_val_00000002.png: expected one whole number a pixel",
        ),
        (
            lambda files: [files.pop(name) for name in list(files) if "annotations" in name],
            "no ade/ADEChallengeData2016/annotations_detectron2/validation with .*.png files",
        ),
        (
            lambda files: [files.update({"else/" + n: files.pop(n)}) for n in list(files)],
            "holds no ADE20K, 150 classes that can be read",
        ),
    ],
)
def test_wrong_files_in_an_archive(change, message, tmp_path):
    label_archives.ade(tmp_path)
    rewrite(tmp_path, change)
    if message == "no_labels":  # label maps name the pictures here; verify counts them
        assert prepare("ade", tmp_path, workers=1).count == 2
        return
    with pytest.raises(UserError, match=message):
        prepare("ade", tmp_path, workers=1)
    assert nothing_left(tmp_path)


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys):
    label_archives.ade(tmp_path)
    wrong = label_archives.grey_png(np.full((12, 14), 200))
    rewrite(tmp_path, lambda files: files.update({TOP: wrong}))
    assert cli.main(["data", "prepare", "ade", "--root", str(tmp_path), "--workers", "1"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "ADE_val_00000002.png" in err and "replace it" in err
    assert nothing_left(tmp_path)


def test_nothing_there_says_what_to_get(tmp_path):
    assert "put ADEChallengeData2016.zip from http" in fails(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        prepare("ade", tmp_path / "none")
    with pytest.raises(UserError, match="did you mean 'ade'"):
        prepare("aed", tmp_path)
    with pytest.raises(UserError, match="--limit: expected 1 or more"):
        prepare("ade", tmp_path, limit=0)


def test_an_empty_split(tmp_path):
    label_archives.voc(tmp_path)
    prepare("voc", tmp_path, workers=1)
    path = next(tmp_path.rglob("val.txt"))
    path.write_text("")
    with pytest.raises(UserError, match=r"val.txt: names no picture, the split is empty"):
        prepare("voc", tmp_path, workers=1, again=True)
    assert len(open_set("voc", tmp_path)) == 3  # what was prepared before is as it was


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.6, 0.97])
@pytest.mark.parametrize("name", ["voc", "ade"])
def test_a_truncated_archive(name, keep, tmp_path):
    label_archives.WRITERS[name](tmp_path)
    (path,) = [p for p in tmp_path.iterdir() if p.is_file()]
    size = path.stat().st_size
    if name == "voc" and keep == 0.97:  # tarfile pads its files; cut the last member itself
        keep = 0.6
    os.truncate(path, int(keep * size) if keep < 1 else keep)
    text = fails(tmp_path, name)
    assert str(path) in text and "download it again" in text
    assert not (tmp_path / "unpacked").exists() or not list((tmp_path / "unpacked").iterdir())


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz", ".zip"])
def test_every_cut_is_noticed(ending, tmp_path):
    files = {f"a/{i}.txt": bytes([65 + i]) * (700 * i) for i in range(6)}
    path = tmp_path / f"x{ending}"
    if ending == ".zip":
        official.write_zip(path, files)
    else:
        with tarfile.open(path, "w" if ending == ".tar" else "w:gz") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    whole = path.read_bytes()
    end = whole.rstrip(b"\0") if ending == ".tar" else whole
    for cut in np.linspace(0, len(end) - 1, 12).astype(int):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"damaged or cut short|expected a whole"):
            unpack(tmp_path, (Archive("x.*"),), quiet)
        assert {p.name for p in tmp_path.rglob("*")} <= {path.name, "unpacked"}
    # Tar archives end in empty blocks; without them the end may be missing.
    if ending == ".tar":
        path.write_bytes(end + bytes(-len(end) % 512))
        with pytest.raises(UserError, match="no end mark"):
            unpack(tmp_path, (Archive("x.*"),), quiet)
    path.write_bytes(whole)
    (folder,) = unpack(tmp_path, (Archive("x.*"),), quiet)
    assert {p.name: p.read_bytes() for p in (folder / "a").iterdir()} == {
        Path(name).name: data for name, data in files.items()
    }


def test_a_damaged_member_of_a_zip(tmp_path):
    label_archives.ade(tmp_path)
    path = tmp_path / "ADEChallengeData2016.zip"
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(data)
    assert "damaged or cut short (Bad CRC-32" in fails(tmp_path)


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/../../out.txt", "..\\out.txt"])
def test_members_stay_in_their_folder(name, tmp_path):
    official.write_zip(tmp_path / "x.zip", {"a.txt": b"", name: b"out"})
    official.write_tar(tmp_path / "y.tar", {"a.txt": b"", name: b"out"})
    for pattern in ("x.zip", "y.tar"):
        with pytest.raises(UserError, match=r"refused, its member .* would be written outside"):
            unpack(tmp_path, (Archive(pattern),), quiet)
    assert {p.name for p in tmp_path.rglob("*")} == {"x.zip", "y.tar", "unpacked"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(kind, tmp_path):
    with tarfile.open(tmp_path / "y.tar", "w") as archive:
        info = tarfile.TarInfo("a")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(UserError, match="is a link or a device"):
        unpack(tmp_path, (Archive("*.tar"),), quiet)
    info = zipfile.ZipInfo("a")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="is a link or a device"):
        unpack(tmp_path, (Archive("*.zip"),), quiet)


def test_archives_are_unpacked_once_and_again_when_they_change(tmp_path):
    label_archives.ade(tmp_path)
    label = next(iter(unpack(tmp_path, (Archive("*.zip"),), quiet))) / TOP
    before = label.stat().st_mtime_ns
    unpack(tmp_path, (Archive("*.zip"),), quiet)
    assert label.stat().st_mtime_ns == before
    rewrite(tmp_path, lambda files: files.update({TOP: b"new"}))
    unpack(tmp_path, (Archive("*.zip"),), quiet)
    assert label.read_bytes() == b"new"


def test_an_archive_of_something_else(tmp_path):
    official.write_tar(tmp_path / "VOCtrainval_11-May-2012.tar", {"readme.txt": b""})
    assert "expected files like" in fails(tmp_path, "voc")
    (tmp_path / "VOCtrainval_11-May-2012.tar").write_bytes(b"<html>not found</html>" * 100)
    assert "expected a whole .zip or .tar archive" in fails(tmp_path, "voc")


def test_a_full_disk_while_unpacking(tmp_path, monkeypatch):
    label_archives.ade(tmp_path)
    copied = []

    def full(source, target):
        copied.append(target)
        if len(copied) > 2:
            raise FULL
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read())

    monkeypatch.setattr(archives, "_copy", full)
    text = fails(tmp_path)
    assert "the disk is full, ADEChallengeData2016.zip" in text and "free some space" in text
    assert not list((tmp_path / "unpacked").iterdir())


def test_too_little_space_is_seen_before_unpacking(tmp_path, monkeypatch):
    label_archives.ade(tmp_path)
    usage = types.SimpleNamespace(free=5)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage)
    assert "unpacking takes" in fails(tmp_path)


@pytest.mark.parametrize("where", ["labels", "items", "journal", "folder"])
def test_a_full_disk_while_preparing(where, tmp_path, monkeypatch):
    label_archives.ade(tmp_path)
    unpack(tmp_path, (Archive("*.zip"),), quiet)
    if where == "labels":
        written = []
        write = work._write

        def full(path, data):
            written.append(path)
            if len(written) > 2:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            write(path, data)

        monkeypatch.setattr(work, "_write", full)
    elif where == "items":

        def no(chosen, folder, *rest):
            raise OSError(errno.ENOSPC, "No space left on device", str(folder / "items.jsonl"))

        monkeypatch.setattr(run, "_finish", no)
    elif where == "journal":
        monkeypatch.setattr(run.work, "run", lambda *rest: (_ for _ in ()).throw(FULL))
    else:
        monkeypatch.setattr(run.os, "replace", lambda *rest: (_ for _ in ()).throw(FULL))
    text = fails(tmp_path)
    assert "the disk is full; free some space" in text or "No space left on device" in text
    assert "prepared/.ade.partial" in text and "free some space" in text


def test_a_folder_that_may_not_be_written(tmp_path):
    label_archives.ade(tmp_path)
    (tmp_path / "prepared").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"prepared/.ade.partial: cannot be read or written"):
        prepare("ade", tmp_path, workers=1)
