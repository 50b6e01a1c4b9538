"""Torch zip files made by hand, so that these tests run without torch; twins with torch below."""

import os
import pickle
import struct
import subprocess
import zipfile

import ml_dtypes
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.weights.torch_zip import is_torch_script, is_torch_zip, read_torch_zip
from tests.weights.torch_side import INSTALL

STORAGE = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
}


def short(text):
    return b"\x8c" + bytes([len(text.encode())]) + text.encode()


def name(module, attribute):
    return b"c" + f"{module}\n{attribute}\n".encode()


def number(n):
    return b"J" + struct.pack("<i", n)


def numbers(values):
    return b"(" + b"".join(number(n) for n in values) + b"t"


def tensor(key, storage, count, offset, shape, stride):
    """Writes the opcodes of torch._utils._rebuild_tensor_v2(…)."""
    pid = b"(" + short("storage") + name("torch", storage) + short(key) + short("cpu")
    pid += number(count) + b"tQ"
    hooks = name("collections", "OrderedDict") + b")R"
    arguments = pid + number(offset) + numbers(shape) + numbers(stride) + b"\x89" + hooks
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def dictionary(items):
    return b"}(" + b"".join(short(k) + v for k, v in items.items()) + b"u"


def program(body):
    return b"\x80\x02" + body + b"."


def archive(path, body, storages=None, extra=None, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", program(body))
        for key, array in (storages or {}).items():
            file.writestr(f"archive/data/{key}", array.tobytes())
        for key, data in (extra or {}).items():
            file.writestr(f"archive/{key}", data)
    return path


def simple(array, key="0"):
    stride = tuple(s // array.itemsize for s in array.strides)
    return tensor(key, STORAGE[array.dtype.name], array.size, 0, array.shape, stride)


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16, "int64"])
def test_dtypes(tmp_path, dtype):
    array = np.arange(6).astype(dtype).reshape(2, 3)
    path = archive(tmp_path / "x.pt", dictionary({"w": simple(array)}), {"0": array})
    assert is_torch_zip(path)
    assert not is_torch_script(path)
    got = read_torch_zip(path)["w"]
    assert got.shape == (2, 3) and got.dtype == array.dtype
    np.testing.assert_array_equal(np.asarray(got), array)


def test_views_share_a_storage(tmp_path):
    base = np.arange(20, dtype=np.float32)
    body = dictionary(
        {
            "part": tensor("0", "FloatStorage", 20, 5, (2, 2), (6, 2)),
            "turned": tensor("0", "FloatStorage", 20, 0, (4, 5), (1, 4)),
            "broad": tensor("0", "FloatStorage", 20, 3, (2, 3), (0, 0)),
            "empty": tensor("0", "FloatStorage", 20, 0, (0, 4), (4, 1)),
            "one": tensor("0", "FloatStorage", 20, 19, (), ()),
        }
    )
    got = read_torch_zip(archive(tmp_path / "x.pt", body, {"0": base}))
    np.testing.assert_array_equal(np.asarray(got["part"]), [[5, 7], [11, 13]])
    np.testing.assert_array_equal(np.asarray(got["turned"]), base.reshape(5, 4).T)
    np.testing.assert_array_equal(np.asarray(got["broad"]), np.full((2, 3), 3))
    assert np.asarray(got["empty"]).shape == (0, 4)
    assert np.asarray(got["one"]) == 19


def test_reading_is_lazy(tmp_path):
    array = np.zeros(1000, np.float32)
    got = read_torch_zip(archive(tmp_path / "x.pt", dictionary({"w": simple(array)}), {"0": array}))
    assert isinstance(got["w"].raw, np.memmap)


def test_compressed_records_are_read_too(tmp_path):
    array = np.arange(9, dtype=np.float32)
    path = archive(
        tmp_path / "x.pt", dictionary({"w": simple(array)}), {"0": array},
        compression=zipfile.ZIP_DEFLATED,
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(read_torch_zip(path)["w"]), array)


def bag(items):
    """Writes a TorchScript object: its class, an empty instance, its attributes."""
    return name("__torch__.model", "CLIP") + b")\x81" + dictionary(items) + b"b"


def test_torchscript_objects_become_names(tmp_path):
    array = np.arange(4, dtype=np.float32)
    body = bag({"training": b"\x89", "visual": bag({"proj": simple(array)}), "n": number(3)})
    path = archive(tmp_path / "x.pt", body, {"0": array}, {"constants.pkl": program(b")")})
    assert is_torch_script(path)
    got = read_torch_zip(path)
    assert list(got) == ["visual.proj"]
    np.testing.assert_array_equal(np.asarray(got["visual.proj"]), array)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_training_checkpoints_are_unwrapped(tmp_path, key):
    array = np.arange(4, dtype=np.float32)
    body = dictionary({"epoch": number(3), key: dictionary({"module.w": simple(array)})})
    got = read_torch_zip(archive(tmp_path / "x.pt", body, {"0": array}))
    assert list(got) == ["w"]


class Evil:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize(
    ("call", "args"),
    [
        (os.system, ("touch {}",)),
        (subprocess.Popen, (["touch", "{}"],)),
        (eval, ("open('{}', 'w')",)),
        (bytearray, (10,)),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_anything_is_refused(tmp_path, call, args, protocol):
    witness = tmp_path / "witness"
    args = [a.format(witness) if isinstance(a, str) else a for a in args]
    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"w": Evil(call, *args)}, protocol))
    # The module is what the pickle's protocol calls it, e.g. posix.system, __builtin__.eval.
    named = rf"refused: this pickle tries to call \w+\.{call.__name__}, and weights"
    with pytest.raises(UserError, match=named):
        read_torch_zip(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    "body",
    [
        # Setting attributes of what may be named.
        name("torch._utils", "_rebuild_tensor_v2") + b"}(" + short("__call__") + b"Nub",
        name("torch._utils", "_rebuild_tensor_v2") + b"N}(" + short("name") + b"Nu\x86b",
        name("torch", "FloatStorage") + b"}(" + short("name") + short("x") + b"ub",
        # Calling what may be named but not called; a storage that is none.
        name("torch", "FloatStorage") + b")R",
        b"(" + short("module") + short("x") + b"tQ",
        b"(" + short("storage") + short("x") + short("0") + short("cpu") + number(4) + b"tQ",
        # Arguments of the wrong kinds and counts; an empty stack.
        name("torch._utils", "_rebuild_tensor_v2") + b")R",
        name("torch._utils", "_rebuild_tensor_v2") + b"(NNNNt" + b"R",
        b"R",
        b"\x80\x02",
    ],
)
def test_odd_pickles_are_damaged_not_obeyed(tmp_path, body):
    with pytest.raises(UserError, match=r"x.pt: expected a complete torch zip file"):
        read_torch_zip(archive(tmp_path / "x.pt", body, {"0": np.zeros(4, np.float32)}))


def test_odd_pickles_leave_the_reader_as_it_was(tmp_path):
    test_odd_pickles_are_damaged_not_obeyed(
        tmp_path, name("torch._utils", "_rebuild_tensor_v2") + b"}(" + short("name") + b"Nub"
    )
    test_views_share_a_storage(tmp_path)


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [(0, (5,), (1,)), (1, (4,), (1,)), (0, (2,), (4,)), (-1, (1,), (1,)), (0, (2,), (-1,)),
     (0, (2, 2), (1,)), (0, (-1,), (1,))],
)  # fmt: skip
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, offset, shape, stride):
    body = dictionary({"w": tensor("0", "FloatStorage", 4, offset, shape, stride)})
    path = archive(tmp_path / "x.pt", body, {"0": np.zeros(4, np.float32)})
    with pytest.raises(UserError, match=r"beyond its storage|impossible shape"):
        read_torch_zip(path)


def test_a_pickle_that_contains_itself_ends(tmp_path):
    # d = {}; d["a"] = d; d["b"] = d
    body = b"}q\x00(" + short("a") + b"h\x00" + short("b") + b"h\x00u"
    with pytest.raises(UserError, match="more entries than any model has"):
        read_torch_zip(archive(tmp_path / "x.pt", body))


def test_short_and_missing_records_are_named(tmp_path):
    array = np.zeros(100, np.float32)
    body = dictionary({"w": simple(array)})
    with pytest.raises(UserError, match="200 bytes of 400 in archive/data/0"):
        read_torch_zip(archive(tmp_path / "x.pt", body, {"0": array[:50]}))
    with pytest.raises(UserError, match="no record archive/data/0"):
        read_torch_zip(archive(tmp_path / "x.pt", body))


@pytest.mark.parametrize("keep", [0, 10, 200, -30])
def test_truncated_files_are_named(tmp_path, keep):
    array = np.zeros(100, np.float32)
    path = archive(tmp_path / "x.pt", dictionary({"w": simple(array)}), {"0": array})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"x.pt: expected a complete torch zip file, found"):
        read_torch_zip(path)
    assert not is_torch_zip(path)


def test_older_pickles_big_endian_and_other_zips_are_named(tmp_path):
    old = tmp_path / "old.pt"
    old.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2))
    with pytest.raises(UserError, match=r"older pickle; save it again with `torch\.save"):
        read_torch_zip(old)
    with pytest.raises(UserError, match="big-endian"):
        read_torch_zip(archive(tmp_path / "b.pt", dictionary({}), extra={"byteorder": b"big"}))
    with zipfile.ZipFile(tmp_path / "z.pt", "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match=r"without data\.pkl"):
        read_torch_zip(tmp_path / "z.pt")
    with pytest.raises(UserError, match="No such file"):
        read_torch_zip(tmp_path / "nowhere.pt")
    with pytest.raises(UserError, match="expected tensors, found none"):
        read_torch_zip(archive(tmp_path / "e.pt", dictionary({"epoch": number(1)})))


def test_state_dicts_that_torch_saved(tmp_path):
    torch = pytest.importorskip("torch", reason=INSTALL)
    x = torch.randn(10, 6)
    state = {
        "view": x[2:5, 1::2], "turned": x.t(), "brain": x.bfloat16(), "half": x.half(),
        "whole": torch.arange(4), "yes": x > 0, "one": torch.tensor(2.0),
        "parameter": torch.nn.Parameter(x), "empty": x[:0],
    }  # fmt: skip
    torch.save(state, tmp_path / "x.pt")
    got = read_torch_zip(tmp_path / "x.pt")
    for key, want in state.items():
        want = want.detach()
        assert got[key].shape == tuple(want.shape)
        np.testing.assert_array_equal(
            np.asarray(got[key]).astype(np.float64), want.double().numpy()
        )


def test_modules_that_torch_scripted_and_traced(tmp_path):
    torch = pytest.importorskip("torch", reason=INSTALL)
    layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)).half()
    layers.register_buffer("resolution", torch.tensor(7))
    x = torch.randn(2, 3).half()
    torch.jit.script(layers).save(tmp_path / "script.pt")
    torch.jit.trace(layers, x).save(tmp_path / "trace.pt")
    want = layers.state_dict()
    for file in ("script.pt", "trace.pt"):
        assert is_torch_script(tmp_path / file)
        got = read_torch_zip(tmp_path / file)
        assert set(got) == set(want)
        for key in want:
            np.testing.assert_array_equal(np.asarray(got[key]), want[key].numpy())


def test_torch_s_older_pickle_and_whole_modules(tmp_path):
    torch = pytest.importorskip("torch", reason=INSTALL)
    torch.save({"w": torch.ones(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="older pickle"):
        read_torch_zip(tmp_path / "x.pt")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "m.pt")
    with pytest.raises(UserError, match=r"refused.*torch\.nn\.modules\.linear\.Linear"):
        read_torch_zip(tmp_path / "m.pt")
