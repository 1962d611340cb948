"""What a server keeps of the bare model's rate; overload, ten thousand requests, reloads.

    python benchmarks/serving.py [--model sctnet-s-camvid] [--seconds 5] [--rounds 6]

The server runs in a process of its own, the clients in this one, on loopback. The bare model labels
decoded pictures of the same size in as many threads as the server has workers, by one, two and four
at a time; it and the server take turns, so that a busy machine slows both, and of each the best
round counts. ``share_of_bare`` is of the fastest of these. ``core_ms`` is the processor time of a
picture, which the clients' is not a part of. Clients ask one request after the other: /predict with
a JPEG, answered by a PNG, and /v2/.../infer with raw bytes.
"""

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from sctnet.inference.segmenter import Segmenter
from sctnet.provenance import environment
from sctnet.serving.memory import keep_freed_memory
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
SIZE = (360, 480)
SMALL = (24, 32)
BATCHES = (1, 2, 4)  # of the bare model; the server takes one of them by default

Request = tuple[str, bytes, dict[str, str]]


def picture(size: tuple[int, int]) -> np.ndarray:
    """Return a smooth random picture, RGB."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return np.asarray(cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC))


def predict_request(size: tuple[int, int]) -> Request:
    """Return a request of an encoded picture."""
    return "/predict", cv2.imencode(".jpg", picture(size))[1].tobytes(), {}


def infer_request(model: str, size: tuple[int, int]) -> Request:
    """Return a request of raw bytes, to be answered in raw bytes."""
    content = picture(size).tobytes()
    images = {
        "name": "images",
        "shape": [1, *size, 3],
        "datatype": "UINT8",
        "parameters": {"binary_data_size": len(content)},
    }
    head = json.dumps({"inputs": [images], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return f"/v2/models/{model}/infer", head + content, headers


@contextmanager
def served(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the command; yield the process and its port."""
    command = [sys.executable, "-m", "sctnet", "serve", *arguments, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            port = json.loads(process.stdout.readline())["port"]
            drain = threading.Thread(target=process.stdout.read, daemon=True)
            drain.start()
            wait_until_ready(port)
            yield process, port
        finally:
            process.terminate()


def wait_until_ready(port: int) -> None:
    """Return when the server answers."""
    while True:
        try:
            get(port, "/v2/health/ready")
        except OSError:
            time.sleep(0.1)
        else:
            return


def get(port: int, path: str) -> str:
    """Return what a path gives."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def figure(port: int, name: str) -> float:
    """Return one of the server's figures about its process."""
    found = re.search(rf"^{name} (\S+)", get(port, "/metrics"), re.MULTILINE)
    assert found is not None
    return float(found[1])


def resident(port: int) -> float:
    """Return the server's memory in MB."""
    return round(figure(port, "process_resident_memory_bytes") / 1e6, 1)


def ask(
    port: int, request: Request, clients: int, going_on: Callable[[], bool]
) -> tuple[Counter[int], list[float], float]:
    """Let clients ask one request after the other; return statuses, latencies, seconds."""
    path, body, headers = request
    statuses: Counter[int] = Counter()
    latencies: list[float] = []

    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while going_on():
            began = time.perf_counter()
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            statuses[answer.status] += 1
            latencies.append(time.perf_counter() - began)
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses, latencies, time.perf_counter() - began


def for_seconds(seconds: float) -> Callable[[], bool]:
    """Return a function that is true for so long."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() < end


def load(port: int, request: Request, clients: int, seconds: float) -> dict[str, Any]:
    """Return throughput and latencies of so many clients; all have to be answered."""
    spent = figure(port, "process_cpu_seconds_total")
    statuses, latencies, took = ask(port, request, clients, for_seconds(seconds))
    spent = figure(port, "process_cpu_seconds_total") - spent
    assert set(statuses) == {200}, statuses
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99]) * 1000
    return {
        "per_second": round(len(latencies) / took, 2),
        "p50_ms": round(p50, 1),
        "p95_ms": round(p95, 1),
        "p99_ms": round(p99, 1),
        "core_ms": round(1000 * spent / len(latencies), 1),
    }


def bare(segmenter: Segmenter, workers: int, batch: int, seconds: float) -> dict[str, Any]:
    """Return what the model alone does in several threads."""
    cores, going_on = os.cpu_count() or 1, for_seconds(seconds)
    pictures, labelled = [picture(SIZE)] * batch, [0] * workers

    def run(number: int) -> None:
        torch.set_num_threads(max(1, cores // workers))
        while going_on():
            segmenter.predict_labels(pictures)
            labelled[number] += batch

    threads = [threading.Thread(target=run, args=(number,)) for number in range(workers)]
    began, spent = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "per_second": round(sum(labelled) / (time.perf_counter() - began), 2),
        "core_ms": round(1000 * (time.process_time() - spent) / sum(labelled), 1),
    }


def throughput(
    model: str, segmenter: Segmenter, seconds: float, rounds: int, options: list[str]
) -> dict[str, Any]:
    """Measure bare model and server in turn; return the best rounds."""
    cores = os.cpu_count() or 1
    requests = {"predict": predict_request(SIZE), "infer": infer_request(Path(model).name, SIZE)}
    threads = {
        **{f"bare, {cores} x 1 thread, batch {batch}": (cores, batch) for batch in BATCHES},
        f"bare, 1 x {cores} threads, batch 1": (1, 1),
    }
    best: dict[str, dict[str, Any]] = {}

    def note(key: str, found: dict[str, Any]) -> None:
        if found["per_second"] > best.get(key, {"per_second": 0})["per_second"]:
            best[key] = found

    with served(model, *options) as (_, port):
        for _ in range(rounds):
            for key, (workers, batch) in threads.items():
                note(key, bare(segmenter, workers, batch, seconds))
            for clients in (1, 4, 16):
                for kind, request in requests.items():
                    note(f"{kind}, {clients} clients", load(port, request, clients, seconds))
    highest = max(best[key]["per_second"] for key in threads)
    for row in best.values():
        row["share_of_bare"] = round(row["per_second"] / highest, 3)
    return best


def overload(model: str, seconds: float) -> dict[str, Any]:
    """Ask with more clients than the queue has places."""
    with served(model, "--queue", "8") as (_, port):
        statuses, _, took = ask(port, predict_request(SIZE), 32, for_seconds(seconds))
    return {
        "queue": 8,
        "clients": 32,
        "answered_per_second": round(statuses[200] / took, 2),
        "statuses": dict(statuses),
    }


def memory(model: str, count: int) -> dict[str, Any]:
    """Send many small pictures; return the server's memory on the way."""
    with served(model) as (_, port):
        request, sizes, asked = predict_request(SMALL), [], 0
        while asked < count:
            part = iter(range(count // 10))
            lock = threading.Lock()

            def one_more(part: Iterator[int] = part, lock: threading.Lock = lock) -> bool:
                with lock:
                    return next(part, None) is not None

            statuses, _, _ = ask(port, request, 16, one_more)
            assert set(statuses) == {200}, statuses
            asked += sum(statuses.values())
            sizes.append(resident(port))
    return {"requests": asked, "resident_mb_after_each_tenth": sizes}


def reloads(model: str, seconds: float) -> dict[str, Any]:
    """Reload under load, again and again; return what clients were answered."""
    with served(model) as (process, port):
        going_on = for_seconds(seconds)

        def reload() -> None:
            while going_on():
                process.send_signal(signal.SIGHUP)
                time.sleep(2)

        reloading = threading.Thread(target=reload)
        reloading.start()
        statuses, _, _ = ask(port, predict_request(SIZE), 4, going_on)
        reloading.join()
        found = re.findall(r"^sctnet_reloads_total\{.*?result=\"(\w+)\".*?\} (\S+)",
                           get(port, "/metrics"), re.MULTILINE)  # fmt: skip
    return {"statuses": dict(statuses), "reloads": {result: float(n) for result, n in found}}


def main() -> None:
    """Measure and write results/serving.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sctnet-s-camvid")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--serve", default="", help="Further options of sctnet serve.")
    parser.add_argument("--out", type=Path, default=RESULTS / "serving.json")
    arguments = parser.parse_args()
    keep_freed_memory()  # as the server does, so that the bare model has no less
    segmenter = Segmenter(arguments.model, "cpu")
    segmenter.predict_labels([picture(SIZE)])  # the first call prepares
    result: dict[str, Any] = {
        "what": "JPEG in, paletted PNG out (predict); bytes in and out (infer); loopback",
        "model": str(segmenter),
        "size": SIZE,
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "options": arguments.serve,
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }
    parts = {
        "throughput": lambda: throughput(
            arguments.model, segmenter, arguments.seconds, arguments.rounds, arguments.serve.split()
        ),
        "overload": lambda: overload(arguments.model, 4 * arguments.seconds),
        "memory": lambda: memory(arguments.model, arguments.requests),
        "reload": lambda: reloads(arguments.model, 4 * arguments.seconds),
    }
    for name, part in parts.items():
        result[name] = part()
        print(name, json.dumps(result[name], indent=1), flush=True)
    write_text(arguments.out, json.dumps({**result, **environment()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
