"""Pictures of every kind of source, each once, and machines that share them."""

import io
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exporting import drawn
from featherbone.data import sources
from featherbone.data.bands import read_values
from featherbone.data.images import read_image
from featherbone.data.sources import Digests, Share, digest, expand_glob, open_sources
from featherbone.errors import BadImage, BadOption
from object_store import object_store


def encoded(i, kind="PNG"):
    """A picture that is 40 + i pixels high."""
    file = io.BytesIO()
    drawn(40 + i, 60).save(file, kind)
    return file.getvalue()


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A current folder with pictures, a list, Parquet shards of both forms and tar shards."""
    for i, name in enumerate(["in/a.png", "in/b.PNG", "in/deep/c.png", "in/.hidden.png", "in/notes.md"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(i))
    content = [encoded(10), None, encoded(12)]
    pq.write_table(pa.table({"image": content, "label": [0, 1, 2]}), tmp_path / "plain.parquet")
    rows = [{"bytes": one, "path": "x"} for one in content[:1]] + [None]
    pq.write_table(pa.table({"image": rows}), tmp_path / "struct.parquet", row_group_size=1)
    for name, mode in (("shard.tar", "w"), ("shard.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as tar:
            for i, member in enumerate(["0.png", "0.cls", "dir/1.png", "._2.png"]):
                info = tarfile.TarInfo(member)
                info.size = len(encoded(20 + i))
                tar.addfile(info, io.BytesIO(encoded(20 + i)))
    lines = ["in/a.png", "", "in/missing.png", "no*.jpg", "plain.parquet", f"file://{tmp_path}/in/deep/c.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(world, *given, without="out"):
    """Source and key of the entries, with the height of the picture or 0 for one that cannot be read."""
    result = {}
    for entry in open_sources([str(one) for one in given], world / without):
        try:
            height = read_image(entry.read(), entry.name).height
        except BadImage:
            height = 0
        name = entry.source.replace(f"file://{world}", "URL").replace(f"{world}/", "")
        assert (name, entry.key) not in result
        result[name, entry.key] = height
    return result


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("in", {("in/a.png", None): 40, ("in/b.PNG", None): 41, ("in/deep/c.png", None): 42}),
        ("in/notes.md", {("in/notes.md", None): 44}),
        ("in/*.png", {("in/a.png", None): 40}),
        ("**/c.*", {("in/deep/c.png", None): 42}),
        ("in/d*", {("in/deep/c.png", None): 42}),
        ("plain.parquet", {("plain.parquet", "0"): 50, ("plain.parquet", "1"): 0, ("plain.parquet", "2"): 52}),
        ("struct.parquet", {("struct.parquet", "0"): 50, ("struct.parquet", "1"): 0}),
        ("shard.tar", {("shard.tar", "0.png"): 60, ("shard.tar", "dir/1.png"): 62}),
        ("shard.tar.gz", {("shard.tar.gz", "0.png"): 60, ("shard.tar.gz", "dir/1.png"): 62}),
        ("URL/in", {("URL/in/a.png", None): 40, ("URL/in/b.PNG", None): 41, ("URL/in/deep/c.png", None): 42}),
        ("URL/in/a.png", {("URL/in/a.png", None): 40}),
        ("URL/shard.tar", {("URL/shard.tar", "0.png"): 60, ("URL/shard.tar", "dir/1.png"): 62}),
        ("URL/struct.parquet", {("URL/struct.parquet", "0"): 50, ("URL/struct.parquet", "1"): 0}),
        (
            "list.txt",
            {
                **{
                    ("in/a.png", None): 40,
                    ("in/missing.png", None): 0,
                    ("no*.jpg", None): 0,
                    ("URL/in/deep/c.png", None): 42,
                },
                **{("plain.parquet", "0"): 50, ("plain.parquet", "1"): 0, ("plain.parquet", "2"): 52},
            },
        ),
    ],
)
def test_every_source(world, given, expected):
    assert found(world, given.replace("URL", f"file://{world}")) == expected
    assert found(world, given.replace("URL", f"file://{world}"), without="in/deep/out").keys() == expected.keys()


def test_a_name_with_signs_of_a_glob_or_url_is_a_name(world):
    (world / "in/[1]?.png").write_bytes(encoded(7))
    assert found(world, "in/[1]?.png") == {("in/[1]?.png", None): 47}
    assert ("URL/in/%5B1%5D%3F.png", None) in found(world, f"file://{world}/in")
    assert list(expand_glob("in/nothing*")) == []


def test_a_stack_is_one_picture(world):
    (world / "stacks/a.stack").mkdir(parents=True)
    (world / "stacks/a.stack/0.png").write_bytes(encoded(0))
    (world / "more.txt").write_text("stacks/a.stack")
    for given in ("stacks", "stacks/a.stack", "stacks/*", "more.txt"):
        entries = open_sources([given], world / "out")
        assert [(one.source, read_values(Path(one.read()), "").shape) for one in entries] == [
            ("stacks/a.stack", (40, 60, 3))
        ]


def test_results_below_a_source_are_no_pictures(world):
    assert found(world, "in", without="in/deep").keys() == {("in/a.png", None), ("in/b.PNG", None)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("missing", "missing: there is no such file or folder; check the path"),
        ("in/*.jpg", r"in/\*.jpg: there is no such file"),
        ("URL/missing", "file:///.*missing: there is no such file"),
        ("s4://bucket/x", "s4://bucket/x: s4 is not read; give a URL of s3, .*, or a path"),
    ],
)
def test_a_missing_source_is_refused_at_once(world, given, message):
    with pytest.raises(BadImage, match=message):
        open_sources(["in", given.replace("URL", f"file://{world}")], world / "out")


@pytest.mark.parametrize("name", ["plain.parquet", "shard.tar", "shard.tar.gz"])
@pytest.mark.parametrize("keep", [0.0, 0.6])
def test_a_damaged_shard_is_an_entry_with_the_reason(world, name, keep):
    """And what comes before the damage, and after the shard, is taken."""
    content = (world / name).read_bytes()
    (world / name).write_bytes(content[: int(keep * len(content))] or b"x")
    entries = list(open_sources([name, "in/a.png"], world / "out"))
    assert entries[-1].source == "in/a.png" and entries[-2].key is None
    with pytest.raises(BadImage, match=f"{name}: cannot be read .*; check the file"):
        entries[-2].read()


def test_a_parquet_file_of_something_else(world):
    pq.write_table(pa.table({"x": [1]}), "other.parquet")
    (entry,) = open_sources(["other.parquet"], world / "out")
    with pytest.raises(BadImage, match=r"other.parquet: not Parquet with columns image .*it has x int64"):
        entry.read()


def test_shards_are_read_in_pieces(world):
    """Of a tar no list of members grows, of a row group no more than a page is in memory."""
    with tarfile.open("long.tar", "w") as tar:
        for i in range(200):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = 1000
            tar.addfile(info, io.BytesIO(b"x" * 1000))
    pictures = pa.table({"image": [os.urandom(5_000) for _ in range(5000)]})
    pq.write_table(pictures, "long.parquet", use_dictionary=False)
    del pictures
    before = pa.total_allocated_bytes()
    for name in ("long.tar", "long.parquet"):
        entries = open_sources([name], world / "out")
        most = 0
        for _ in entries:
            most = max(most, pa.total_allocated_bytes() - before)
        assert most < 12_000_000, "the row group has 25 MB, a page of 1024 rows 5"


def test_shares_are_a_partition():
    names = [digest(f"{i}.jpg", None) for i in range(3000)]
    shares = [Share.parse(f"{i}/3") for i in (1, 2, 3)]
    sizes = [sum(name in share for name in names) for share in shares]
    assert sum(sizes) == 3000 and min(sizes) > 900
    assert all(sum(name in share for share in shares) == 1 for name in names)
    assert all(name in Share() for name in names)


def test_digests_stay_the_same():
    """Machines of any version must agree, and a folder is continued by later ones."""
    assert digest("a.tar", "0.jpg").hex() == "e657c3c3ee9d94a21f203cf563412d7e"


@pytest.mark.parametrize("text", ["4/3", "0/3", "1/0", "1", "a/b", "-1/3", "1/3/5", ""])
def test_wrong_shares(text):
    with pytest.raises(BadOption, match=r"share .* is not one of 1/N to N/N; pass 1/3"):
        Share.parse(text)


def test_a_set_of_digests(monkeypatch):
    """Also of ones that end in zeros, which NumPy drops."""
    one, other = b"x" * 14 + b"\0\0", b"x" * 15 + b"\0"
    known = Digests()
    assert known.add(one) and known.add(other) and not known.add(one)
    for i in range(100_000):
        assert known.add(i.to_bytes(16))
    assert len(known._recent) < 70_000
    assert not any(known.add(name) for name in (one, other, *(i.to_bytes(16) for i in range(0, 100_000, 999))))


def test_endings_are_in_any_case():
    assert sources.is_collection("X.PARQUET") and sources.is_collection("s3://b/x.jpg")
    assert not sources.is_collection("x.jpg")


def test_an_object_store_that_fails_at_times_is_read(world, monkeypatch):
    """Pictures, shards and lists in a bucket; a missing one is an error like that of a file."""
    with object_store(monkeypatch, "pictures") as store:
        for name in ("in/a.png", "in/deep/c.png", "in/.hidden.png", "plain.parquet", "shard.tar"):
            with store.open_output_stream(f"pictures/{name}") as file:
                file.write((world / name).read_bytes())
        with store.open_output_stream("pictures/list.txt") as file:
            file.write(b"s3://pictures/in/missing.png\ns3://pictures/in/deep/c.png\n")
        url = "s3://pictures"
        assert found(world, f"{url}/in") == {(f"{url}/in/a.png", None): 40, (f"{url}/in/deep/c.png", None): 42}
        shards = found(world, f"{url}/plain.parquet", f"{url}/shard.tar")
        assert list(shards.values()) == [50, 0, 52, 60, 62]
        assert found(world, f"{url}/list.txt") == {
            (f"{url}/in/missing.png", None): 0,
            (f"{url}/in/deep/c.png", None): 42,
        }
        with pytest.raises(BadImage, match="there is no such file or folder"):
            open_sources([f"{url}/nothing"], world)
