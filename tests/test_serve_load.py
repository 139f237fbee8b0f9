"""`unflip serve` under 64 clients for a minute: nobody is answered with an error of the server's, and its memory stays as it is."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving import picture, started

httpx = pytest.importorskip("httpx")
pytest.importorskip("gradio", reason="the extra serve is not installed")

CLIENTS, SECONDS, WARM = 64, 60.0, 15.0
PNG = {"Content-Type": "image/png"}


def resident(process: int) -> float:
    """MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def visit(url: str, number: int, until: float) -> tuple[Counter[int], list[float]]:
    """One client: as fast as it is answered. Every eighth looks at the page and uploads, too."""
    statuses: Counter[int] = Counter()
    times = []
    images = [picture(size=(96, 64), seed=i) for i in range(4)]
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        while time.monotonic() < until:
            began = time.monotonic()
            trust = {"trust": "1"} if number % 4 == 0 else {}
            answer = client.post("/api/translate", params=trust, content=images[number % 4], headers=PNG)
            statuses[answer.status_code] += 1
            if answer.status_code == 200:
                times.append(time.monotonic() - began)
            else:
                assert answer.status_code != 429 or int(answer.headers["retry-after"]) >= 1
                time.sleep(0.2)
            if number % 8 == 0:
                for other in (client.get("/"), client.get("/api/models"), client.post("/gradio_api/upload", files={"files": images[0]})):
                    statuses[other.status_code] += 1
    return statuses, times


@pytest.mark.slow
def test_64_clients_for_a_minute(model: Path, tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("tells memory by /proc")
    process, url = started(model, tmp_path / "log", "--rate", "0", TMPDIR=str(tmp_path))
    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            until = time.monotonic() + SECONDS
            clients = [pool.submit(visit, url, number, until) for number in range(CLIENTS)]
            time.sleep(WARM)
            warm, most = resident(process.pid), 0.0
            while time.monotonic() < until:
                most = max(most, resident(process.pid))
                time.sleep(0.5)
            found = [client.result() for client in clients]
        statuses = sum((each for each, _ in found), Counter())
        times = sorted(seconds for _, each in found for seconds in each)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    finally:
        process.kill()
    told = {"statuses": dict(statuses), "median": times[len(times) // 2], "slowest": times[-1], "MiB after 15 s": warm, "MiB at most": most}
    print(json.dumps(told))
    assert set(statuses) == {200, 429} and len(times) > 200
    assert most < 1.05 * warm, told
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    assert sum(line.get("path") == "/api/translate" and line["status"] == 200 for line in lines) == len(times)
    assert {line.get("level") for line in lines} == {None}, "nothing to say but of requests"
