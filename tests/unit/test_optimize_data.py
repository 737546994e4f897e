"""A plan's data: every form is read alike, and what does not fit is refused by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import ConfigError
from harness.optimize import data
from harness.types import Tensor

IMAGE = Tensor(name="image", shape=(1, 4, 3), dtype="float32")
LEFT = Tensor(name="serving_default_left:0", shape=(1, 2), dtype="float32")
RIGHT = Tensor(name="right", shape=(-1, 5), dtype="int32")
X = np.arange(72, dtype=np.float32).reshape(6, 4, 3)
Y = np.arange(6)


def save(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_an_npz_is_read_whole(tmp_path: Path) -> None:
    arrays, labels = data.load(save(tmp_path / "d.npz", x=X, y=Y), [IMAGE], limit=100)

    np.testing.assert_array_equal(arrays["image"], X)
    assert labels is not None
    assert labels.tolist() == Y.tolist()


def test_a_limit_bounds_the_loaded_samples(tmp_path: Path) -> None:
    arrays, _ = data.load(save(tmp_path / "d.npz", x=X), [IMAGE], limit=2)

    assert len(arrays["image"]) == 2


def test_several_inputs_are_found_by_name(tmp_path: Path) -> None:
    left, right = np.ones((3, 2), np.float32), np.ones((3, 5), np.int64)
    path = save(tmp_path / "d.npz", **{"x.left": left, "x.right": right})

    arrays, labels = data.load(path, [LEFT, RIGHT], limit=9)

    assert arrays["serving_default_left:0"].shape == (3, 2)
    assert arrays["right"].dtype == np.int32
    assert labels is None


def test_a_folder_has_samples_and_batches_in_sorted_order(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", X[2:])
    np.save(tmp_path / "a1.npy", X[1])
    np.savez(tmp_path / "a0.npz", x=X[0])
    (tmp_path / "notes.txt").write_text("not data")

    arrays, _ = data.load(str(tmp_path), [IMAGE], limit=100)

    np.testing.assert_array_equal(arrays["image"], X)


@pytest.mark.parametrize(
    "body",
    [
        "yield from ((x, i) for i, x in enumerate(X))",
        "yield X, np.arange(6)",
        "for i, x in enumerate(X): yield {'image': x, 'y': i}",
    ],
)
def test_a_generator_yields_samples_or_batches(tmp_path: Path, body: str) -> None:
    source = tmp_path / "feed.py"
    source.write_text(
        "import numpy as np\nX = np.arange(72, dtype=np.float32).reshape(6, 4, 3)\n"
        f"def samples():\n    {body}\n"
    )

    arrays, labels = data.load(f"{source}:samples", [IMAGE], limit=100)

    np.testing.assert_array_equal(arrays["image"], X)
    assert labels is not None
    assert labels.tolist() == Y.tolist()


def test_an_endless_generator_is_read_lazily(tmp_path: Path) -> None:
    source = tmp_path / "feed.py"
    source.write_text(
        "import itertools, numpy as np\n"
        "def samples():\n"
        "    for i in itertools.count():\n"
        "        assert i < 5, 'read too far'\n"
        "        yield np.zeros((4, 3), np.float32)\n"
    )

    arrays, _ = data.load(f"{source}:samples", [IMAGE], limit=5)

    assert arrays["image"].shape == (5, 4, 3)


def test_random_data_comes_from_the_seed() -> None:
    first, _ = data.load("random", [IMAGE, RIGHT], limit=100, seed=1)
    again, _ = data.load("random", [IMAGE, RIGHT], limit=100, seed=1)
    other, _ = data.load("random", [IMAGE, RIGHT], limit=100, seed=2)

    np.testing.assert_array_equal(first["image"], again["image"])
    assert not np.array_equal(first["image"], other["image"])
    assert np.ptp(first["right"].astype(np.int64)) > 2**30
    assert len(first["image"]) == data.RANDOM_SAMPLES


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": X}, r'key "x" is missing \(it has: images\)'),
        ({"x": X.reshape(6, 12)}, r"shape \(6, 12\); .*takes \(n, 4, 3\)"),
        ({"x": X.astype(np.uint8)}, "uint8; .*takes float32"),
        ({"x": X.astype(np.int64)}, "int64"),
        ({"x": np.where(X == 7, np.nan, X)}, "NaN"),
        ({"x": np.where(X == 7, np.inf, X)}, "infinity"),
        ({"x": X[:0]}, "is empty"),
        ({"x": X, "y": Y[:4]}, '"y" has 4 entries for 6 samples'),
        ({"x": np.array(["a"] * 6)}, "takes"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    path = save(tmp_path / "calibration.npz", **arrays)

    with pytest.raises(ConfigError, match=message) as caught:
        data.load(path, [IMAGE], limit=100)
    assert "calibration.npz" in str(caught.value)


def test_integers_outside_the_inputs_dtype_are_refused(tmp_path: Path) -> None:
    tokens = Tensor(name="tokens", shape=(1, 2), dtype="int8")
    path = save(tmp_path / "d.npz", x=np.array([[1, 300]]))

    with pytest.raises(ConfigError, match="outside int8"):
        data.load(path, [tokens], limit=1)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"\x93NUMPYbroken"])
def test_a_file_that_is_no_data_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "d.npz"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match="cannot be read"):
        data.load(str(path), [IMAGE], limit=1)


def test_pickled_data_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)

    with pytest.raises(ConfigError, match="pickle"):
        data.load(str(tmp_path / "d.npy"), [IMAGE], limit=1)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no samples"):
        data.load(str(tmp_path), [IMAGE], limit=1)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("def samples():\n    yield 1 / 0\n", "samples", "ZeroDivisionError"),
        ("def samples(): return []\n", "sample", r'no function "sample".*samples'),
        ("import nowhere_to_be_found\n", "samples", "ModuleNotFoundError"),
        ("def samples(): return []\n", "samples", "no samples"),
    ],
)
def test_a_failing_generator_is_refused_with_its_own_message(
    tmp_path: Path, text: str, name: str, message: str
) -> None:
    (tmp_path / "feed.py").write_text(text)

    with pytest.raises(ConfigError, match=message):
        data.load(f"{tmp_path / 'feed.py'}:{name}", [IMAGE], limit=1)


def test_digests_follow_the_content(tmp_path: Path) -> None:
    path = save(tmp_path / "d.npz", x=X)
    before = data.digest(path)
    save(tmp_path / "d.npz", x=X + 1)

    assert data.digest(path) != before
    assert data.digest("random") == "random"
    assert data.digest("feed.py:samples") is None
    with pytest.raises(ConfigError, match=r"none\.npz"):
        data.digest(str(tmp_path / "none.npz"))
