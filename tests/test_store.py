import json
import logging
import math
import multiprocessing
import os
import resource
import signal

import pandas as pd
import pytest

from made_records import record
from shallowpaths.experiments.store import Store, load_records
from shallowpaths.training.record import RunRecord


def test_what_is_stored_is_loaded(tmp_path):
    store = Store(tmp_path / "new" / "runs.jsonl")
    records = [record(seed=s) for s in range(3)]
    store.append(*records)
    assert store.load() == records == Store(store.path).load() == load_records(store.path)


def test_a_folder_is_a_store_too(tmp_path):
    assert Store(tmp_path).path == tmp_path / "records.jsonl"
    assert Store(tmp_path / "new").path == tmp_path / "new" / "records.jsonl"
    (tmp_path / "runs.txt").write_text("")
    assert Store(tmp_path / "runs.txt").path == tmp_path / "runs.txt"


def test_one_json_line_a_record(tmp_path):
    store = Store(tmp_path / "runs.jsonl")
    store.append(record())
    store.append(record(loss=math.inf))
    lines = store.path.read_text().splitlines()
    assert [json.loads(line)["outcome"] for line in lines] == ["finished", "diverged"]


def test_pandas_reads_it_in_one_line(tmp_path):
    store = Store(tmp_path)
    store.append(record(accuracy=0.25))
    store.append(record(loss=math.inf, seed=1))
    table = pd.read_json(store.path, lines=True)
    assert table["test_accuracy"].tolist()[0] == 0.25
    assert table["outcome"].tolist() == ["finished", "diverged"]


def test_damaged_and_foreign_lines_are_reported_and_passed_over(tmp_path, caplog):
    store = Store(tmp_path / "runs.jsonl")
    good = [record(seed=s) for s in range(3)]
    bad = [b'{"config": {}}', b"\xff\xfe", b'{"text": "of another program"}', good[1].to_json().encode()[:40]]
    store.append(good[0])
    with store.path.open("ab") as file:
        file.write(bad[0] + b"\n" + bad[1] + b"\n\n" + bad[2] + b"\n" + bad[3])  # the last one cut short by a kill
    store.append(good[2])
    content = store.path.read_bytes()
    for load in (store.load, lambda: load_records(store.path)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert load() == [good[0], good[2]]
        assert [n for n in range(1, 8) if f"line {n} is passed over" in caplog.text] == [2, 3, 5, 6]
    assert store.path.read_bytes() == content


def test_of_a_run_that_stands_twice_the_first_record_counts(tmp_path, caplog):
    store = Store(tmp_path)
    first, again, other = record(loss=1.0), record(loss=2.0), record(seed=1)
    for r in (first, other, again, first):
        store.append(r)
    with caplog.at_level(logging.WARNING):
        assert store.load() == [first, other]
    assert caplog.text.count("stands in line 1 already") == 2


def test_an_unwritable_store_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.jsonl").mkdir()
    for path in (tmp_path / "file" / "runs.jsonl", tmp_path / "folder.jsonl"):
        with pytest.raises(ValueError, match="cannot be written"):
            Store(path)


def _write_for_ever(path, ready):
    store = Store(path)
    ready.set()
    for seed in range(1_000_000):
        store.append(record(seed=seed))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_kill_in_the_middle_of_a_write_loses_that_line_at_most(tmp_path, forkserver):
    """Killed somewhere among its writes, five times; every whole line is the record it should be, in order."""
    for attempt in range(5):
        path, ready = tmp_path / f"{attempt}.jsonl", forkserver.Event()
        process = forkserver.Process(target=_write_for_ever, args=(path, ready))
        process.start()
        assert ready.wait(60)
        process.join(0.1 + 0.037 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        store = Store(path)  # and its lock is free again
        written = store.load()
        assert [r.config.seed for r in written] == list(range(len(written)))
        store.append(record(seed=1_000_000))
        assert len(store.load()) == len(written) + 1


def test_a_line_cut_at_any_byte_is_repeated_and_nothing_else_is_lost(tmp_path):
    first, second = record(seed=0), record(seed=1)
    whole = second.to_json().encode() + b"\n"
    for cut in range(0, len(whole) - 1, 7):  # but for its newline a line is whole
        store = Store(tmp_path / f"{cut}.jsonl")
        store.append(first)
        with store.path.open("ab") as file:
            file.write(whole[:cut])
        assert store.load() == [first]
        store.append(second)
        assert store.load() == [first, second]


def _append_until_full(path, size, sender):
    store = Store(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    store.append(record(seed=0))
    try:
        store.append(record(seed=1), record(seed=2))
    except ValueError as error:
        sender.send(str(error))
    sender.send(len(store.load()))


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="this system cannot limit a file's size")
def test_a_full_disk_loses_nothing(tmp_path):
    """The kernel takes one and a half records, then no byte more."""
    line = len(record().to_json()) + 1
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_append_until_full, args=(tmp_path / "runs.jsonl", line * 3 // 2, sender))
    process.start()
    error, known = (receiver.recv() for _ in range(2))
    process.join()
    assert "2 finished runs cannot be written" in error
    assert [RunRecord.from_json(x) for x in error.splitlines()[1:]] == [record(seed=1), record(seed=2)]
    assert known == 1
    assert load_records(tmp_path / "runs.jsonl") == [record(seed=0)]


def _own(path, ready):
    with Store(path):
        ready.set()
        signal.pause()


@pytest.mark.skipif(not hasattr(signal, "pause"), reason="this system has no signals")
def test_a_store_belongs_to_one_process_until_it_lets_go_or_dies(tmp_path, forkserver):
    ready, store = forkserver.Event(), Store(tmp_path)
    process = forkserver.Process(target=_own, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    for use in (lambda: Store(tmp_path), store.load, lambda: store.append(record()), store.__enter__):
        with pytest.raises(ValueError, match="is in use by another process"):
            use()
    assert load_records(store.path) == [], "who only reads need not wait"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    store.append(record())
    assert store.load() == [record()]


@pytest.mark.parametrize("path", ["", os.devnull])
def test_a_path_that_can_be_no_file_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="record store"):
        Store(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
@pytest.mark.parametrize("name", ["pipe", "pipe.jsonl"])
def test_a_fifo_is_refused_before_anything_waits_for_it(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="no plain file"):
        Store(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_records_are_read_from_a_stores_folder_too(tmp_path):
    with Store(tmp_path / "runs") as store:
        store.append(record())
    assert load_records(tmp_path / "runs") == load_records(tmp_path / "runs" / "records.jsonl") != []
