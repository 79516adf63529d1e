"""Tune C over a word-like CSR matrix on disk, in a process whose memory is limited.

    python benchmarks/out_of_core.py --folder /big/disk --gigabytes 12
    python benchmarks/out_of_core.py --gigabytes 0.1 --limit 0.5 --compare

Makes the files in blocks, unless they are there: rows of about 600 words each (Zipf's law over
100,000), in float32, and classes by a random linear model. ``--limit`` is that of RLIMIT_DATA, the
memory that a process may ask for: a file that is mapped read-only does not count. The search is
``ShineCV(LogisticRegression(), cv=five folds).fit``, refit included, on one thread. ``--cold``
drops the files from the system's cache before each pass, so that the disk is read, as it is where
the files are larger than memory. ``--compare`` runs the search in memory, too, without a limit.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from hoag_shine import CSRBlocks, ShineCV

N_WORDS = 100_000
WORDS_IN_A_ROW = 600
ROWS_AT_A_TIME = 20_000
GIGABYTE = 1e9
NAMES = ("data", "indices")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("/tmp/out_of_core"))
    parser.add_argument("--gigabytes", type=float, default=0.1)
    parser.add_argument("--limit", type=float, default=2.0, help="gigabytes")
    parser.add_argument("--cold", action="store_true", help="read the disk in every pass")
    parser.add_argument("--compare", action="store_true", help="search in memory, too")
    parser.add_argument("--run", choices=["files", "memory"], help="used by this program itself")
    args = parser.parse_args()
    folder = args.folder / f"{args.gigabytes:g}"
    if args.run:
        print(json.dumps(run(folder, args)))
        return
    if not (folder / "y.npy").exists():
        make(folder, args.gigabytes)
    speed = disk_speed(folder, cold=args.cold)
    print(f"{size(folder) / GIGABYTE:.2f} GB, read alone at {speed / GIGABYTE:.2f} GB/s")
    for kind in ["files", "memory"][: 1 + args.compare]:
        done = in_a_process(kind)
        print(f"{kind:7}" + ", ".join(f"{name} {value}" for name, value in done.items()))
        if kind == "files":
            share = done["bytes read"] / done["seconds of the search"] / speed
            print(f"       {share:.0%} of the speed of reading alone, all work included")


def in_a_process(kind):
    """Return what a process of its own has found."""
    command = [sys.executable, __file__, *sys.argv[1:], "--run", kind]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


# --- the data -----------------------------------------------------------------------------------


def make(folder, gigabytes):
    """Write the arrays of the matrix, block by block."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    coefficients = rng.normal(size=N_WORDS)
    lengths, targets, written = [], [], 0
    with (folder / "data").open("wb") as data, (folder / "indices").open("wb") as indices:
        while written < gigabytes * GIGABYTE:
            X = words(rng)
            data.write(X.data)
            indices.write(X.indices.astype(np.int32))
            written += 8 * X.nnz
            score = X @ coefficients
            targets.append(score / score.std() + rng.logistic(size=len(score)) > 0.0)
            lengths.append(np.diff(X.indptr))
    np.save(folder / "indptr.npy", np.concatenate([[0], np.cumsum(np.concatenate(lengths))]))
    np.save(folder / "y.npy", np.concatenate(targets))


def words(rng):
    """Return rows of words with their shares in the row; word k is drawn in proportion to 1 / k."""
    n = ROWS_AT_A_TIME * WORDS_IN_A_ROW
    drawn = (N_WORDS ** rng.random(n, dtype=np.float32)).astype(np.int32) - 1
    rows = np.repeat(np.arange(ROWS_AT_A_TIME), WORDS_IN_A_ROW)
    shape = (ROWS_AT_A_TIME, N_WORDS)
    counts = sparse.csr_array((np.ones(n, np.float32), (rows, drawn)), shape=shape)
    counts.sum_duplicates()
    counts.data = np.log1p(counts.data)
    norms = np.sqrt(counts.power(2).sum(axis=1))
    counts.data /= np.repeat(norms, np.diff(counts.indptr)).astype(np.float32)
    return counts


def size(folder):
    return sum((folder / name).stat().st_size for name in NAMES)


def drop_from_cache(folder):
    for name in NAMES:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_speed(folder, *, cold):
    """Return the bytes per second at which the files are read, with nothing done to them."""
    if cold:
        drop_from_cache(folder)
    buffer, begin = bytearray(1 << 25), time.perf_counter()
    for name in NAMES:
        with (folder / name).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return size(folder) / (time.perf_counter() - begin)


# --- the search ---------------------------------------------------------------------------------


class ColdBlocks(CSRBlocks):
    """Blocks of files that are not in the system's cache."""

    folder = None

    def row_blocks(self):
        drop_from_cache(self.folder)
        yield from super().row_blocks()


def run(folder, args):
    """Search, and return what was found and what it took."""
    if args.run == "files":
        limit = int(args.limit * GIGABYTE)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    X, y = matrix(folder, args), np.load(folder / "y.npy")
    cv = StratifiedKFold(5, shuffle=True, random_state=0)
    search, begin = ShineCV(LogisticRegression(), cv=cv), time.perf_counter()
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search.fit(X, y)
    return {
        "C": search.best_params_["C"],
        "log loss": -search.best_score_,
        "seconds in all": time.perf_counter() - begin,
        "passes": sum(r["data_passes"] for r in search.history_),
        "bytes read": sum(r["bytes_read"] for r in search.history_),
        "seconds of the search": sum(r["seconds"] for r in search.history_),
        "peak bytes": peak(),
    }


def peak():
    """Return the most memory that this process has had; getrusage counts its parent's, too."""
    words = Path("/proc/self/status").read_text().split()
    return 1024 * int(words[words.index("VmHWM:") + 1])


def matrix(folder, args):
    """Return X as a matrix in memory, or as blocks of the files."""
    indptr = np.load(folder / "indptr.npy")
    kinds = {"data": np.float32, "indices": np.int32}
    shape = (len(indptr) - 1, N_WORDS)
    if args.run == "memory":
        arrays = (np.fromfile(folder / name, kinds[name]) for name in NAMES)
        return sparse.csr_array((*arrays, indptr.astype(np.int32)), shape=shape)
    arrays = (np.memmap(folder / name, kinds[name], "r") for name in NAMES)
    blocks = (ColdBlocks if args.cold else CSRBlocks)(*arrays, indptr, shape)
    blocks.folder = folder
    return blocks


if __name__ == "__main__":
    main()
