"""Four processes write to one SQLite database, in each journal mode: `sqlite.py DIR`.

Prints one line per mode, the same on every filesystem that keeps its promises.
"""
import os
import sqlite3
import sys

WRITERS, ROUNDS = 4, 20


def writer(path, mode, who):
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    db.execute(f"pragma journal_mode={mode}")
    for n in range(ROUNDS):
        db.execute("begin immediate")
        db.execute("insert into t values (?, ?, ?)", (who, n, 1))
        db.execute("insert into t values (?, ?, ?)", (who, n, -1))
        db.execute("commit")
    db.close()


for mode in ("delete", "wal", "truncate", "persist"):
    path = os.path.join(sys.argv[1], f"{mode}.db")
    db = sqlite3.connect(path, timeout=60)
    db.execute(f"pragma journal_mode={mode}")
    db.execute("create table t (who, n, v)")
    db.commit()
    db.close()
    children = []
    for who in range(WRITERS):
        pid = os.fork()
        if pid == 0:
            failed = 1
            try:
                writer(path, mode, who)
                failed = 0
            finally:
                os._exit(failed)
        children.append(pid)
    ends = [os.waitpid(pid, 0)[1] for pid in children]
    db = sqlite3.connect(path, timeout=60)
    rows, total = db.execute("select count(*), sum(v) from t").fetchone()
    integrity = db.execute("pragma integrity_check").fetchone()[0]
    print(mode, ends, rows, total, integrity)
    db.close()
