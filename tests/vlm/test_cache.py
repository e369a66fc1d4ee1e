import json
import sqlite3
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path

import pytest

from artiagent.vlm.cache import AnswerCache, CacheError

KEYS = [sha256(str(i).encode()).digest() for i in range(100)]


def test_values_outlive_the_process_and_are_never_replaced(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "new" / "folder")
    assert cache.get(KEYS[0]) is None
    cache.put(KEYS[0], {"text": "hände", "probability": None})
    cache.put(KEYS[0], {"text": "another"})
    cache.close()
    again = AnswerCache(tmp_path / "new" / "folder")
    assert again.get(KEYS[0]) == {"text": "hände", "probability": None} and len(again) == 1


def test_threads_see_each_others_values(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)

    def write(share: int) -> None:
        for key in KEYS[share::4]:
            cache.put(key, {"from": share})
        cache.close()

    threads = [threading.Thread(target=write, args=(share,)) for share in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [cache.get(key)["from"] for key in KEYS] == [i % 4 for i in range(100)]


WRITER = """
import sys
from pathlib import Path
from hashlib import sha256
from artiagent.vlm.cache import AnswerCache
cache = AnswerCache(Path(sys.argv[1]))
for i in range(100):
    cache.put(sha256(str(i).encode()).digest(), {"by": sys.argv[2]})
"""


def test_processes_that_open_the_same_new_file_at_once(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(i)], stderr=subprocess.PIPE, text=True)
        for i in range(4)
    ]
    assert [(p.communicate()[1], p.returncode) for p in processes] == [("", 0)] * 4
    cache = AnswerCache(tmp_path)
    assert len(cache) == 100 and all(cache.get(key)["by"] in "0123" for key in KEYS)


def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    for key in KEYS:
        cache.put(key, {"text": "x" * 500})
    cache.close()
    whole = cache.path.read_bytes()
    cache.path.write_bytes(b"not a database at all" + whole[21:])
    with pytest.raises(
        CacheError, match=r"answers\.v1\.sqlite: the cache of answers cannot be used .*move the file away"
    ):
        AnswerCache(tmp_path)
    cache.path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(CacheError, match=r"answers\.v1\.sqlite"):
        [AnswerCache(tmp_path).get(key) for key in KEYS]
    assert cache.path.exists()


def test_a_value_that_is_no_json_object_is_an_error(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    with sqlite3.connect(cache.path) as connection:
        connection.executemany("INSERT INTO answers VALUES (?, ?)", [(KEYS[0], "[1"), (KEYS[1], json.dumps([1]))])
    for key in KEYS[:2]:
        with pytest.raises(CacheError, match="not a JSON object"):
            cache.get(key)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot create the folder"):
        AnswerCache(tmp_path / "file" / "inside")
