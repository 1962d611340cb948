"""Damages files of every kind for minutes, and reads them: pixels or one sentence must come.

    python tools/fuzz_readers.py --minutes 10

Prints the seed of every copy that ends otherwise; `mutated` of `tests/mutated.py` makes it again.
"""

import argparse
import itertools
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from mutated import READERS, mutated, told


def main() -> None:
    """Read damaged copies until the time is over; the exit status is 1 if a reader failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("error")
    samples = {what: list(make().items()) for what, (make, _) in READERS.items()}
    end = time.monotonic() + 60 * options.minutes
    counts: Counter[str] = Counter()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.yaml")
        for seed in itertools.count(options.seed):
            if time.monotonic() > end:
                break
            for what, (_, read) in READERS.items():
                if what == "video" and seed % 10:
                    continue
                name, content = samples[what][seed % len(samples[what])]
                path.write_bytes(mutated(content, seed))
                counts["copies"] += 1
                try:
                    sentence = told(read, path)
                except Exception:
                    failures += 1
                    print(f"{what}, {name}, seed {seed}:")
                    traceback.print_exc(limit=-3, file=sys.stdout)
                    continue
                counts["read" if sentence is None else "told"] += 1
    print(f"{dict(counts)}, {failures} failures")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
