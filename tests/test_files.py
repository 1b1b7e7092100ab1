"""Files are whole or not there."""

import csv
import io
import os
import resource
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wideresnet import files
from wideresnet.errors import TrainingStopped


def test_a_file_written_holds_what_was_given_and_leaves_no_other(tmp_path: Path) -> None:
    files.write_whole(tmp_path / "new" / "a.txt", "ışık")
    assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == "ışık"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_a_file_written_may_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_whole(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write_whole(path, b"old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))  # the kernel refuses what goes beyond, as a full disk
    try:
        with pytest.raises(TrainingStopped, match=r"a: cannot write 100,000 bytes: File too large.*untouched"):
            files.write_whole(path, b"n" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_reads_back_otherwise_than_it_was_written_takes_no_other_file_s_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, keep, synced = tmp_path / "a", tmp_path / "before", os.fsync

    def failing(handle: int) -> None:
        """A disk that keeps something else."""
        synced(handle)
        os.pwrite(handle, b"X", 2)

    files.write_whole(path, b"old", keep=keep)
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(TrainingStopped, match=r"reads back otherwise from byte 0 on; the disk is failing.*untouched"):
        files.write_whole(path, b"new one", keep=keep)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    files.write_whole(path, b"new one", keep=keep)
    assert (path.read_bytes(), keep.read_bytes()) == (b"new one", b"old")


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abc"), st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])), min_size=1
        ),
        min_size=1,
    )
)
def test_rows_come_back_from_csv_as_they_went_in(rows: list[dict[str, str]]) -> None:
    back = list(csv.DictReader(io.StringIO(files.csv_text(rows), newline="")))
    columns = set().union(*rows)
    assert back == [{column: row.get(column, "") for column in columns} for row in rows]


def test_the_cache_folder_is_the_one_named_or_the_user_s_own_and_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WRN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert files.cache_folder() == tmp_path / ".cache" / "wideresnet"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_folder() == tmp_path / "xdg" / "wideresnet"
    monkeypatch.setenv("WRN_CACHE", str(tmp_path / "own"))
    assert files.cache_folder() == tmp_path / "own"
    assert (tmp_path / "own").is_dir()
