"""Counts and times of the server, in the text format that Prometheus reads."""

import resource
import threading
import time
from bisect import bisect_left
from pathlib import Path

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_HELP = {
    "requests_total": ("counter", "Answered requests by route and status."),
    "request_seconds": ("histogram", "Time to the end of the answer by route."),
    "requests_inside": ("gauge", "Requests that use or wait for the model."),
    "refused_busy": ("counter", "Requests past the end of the queue."),
    "batch_items": ("histogram", "Texts or segments that the model took at once."),
    "upload_bytes": ("counter", "Bytes of accepted uploads."),
    "decoder_deaths": ("gauge", "Decoding processes that died or were ended in a call."),
    "jobs_ended": ("counter", "Ended jobs by state."),
    "resident_bytes": ("gauge", "Memory of this process."),
    "uptime_seconds": ("gauge", "Time since the start."),
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """All figures of one server; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begin_s = time.monotonic()
        self._values: dict[tuple[str, Labels], float] = {}
        self._histograms: dict[tuple[str, Labels], list[float]] = {}

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        key = (name, tuple(labels.items()))
        with self._lock:
            self._values[key] = self._values.get(key, 0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[name, tuple(labels.items())] = value

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        key = (name, tuple(labels.items()))
        with self._lock:
            # A count for each bucket and one beyond them, then the sum of all values.
            row = self._histograms.setdefault(key, [0.0] * (len(_BUCKETS) + 2))
            row[bisect_left(_BUCKETS, value)] += 1
            row[-1] += value

    def text(self) -> str:
        """Return everything, in Prometheus' text format 0.0.4."""
        self.set("uptime_seconds", time.monotonic() - self._begin_s)
        self.set("resident_bytes", resident_bytes())
        with self._lock:
            values, histograms = (
                dict(self._values),
                {k: list(v) for k, v in self._histograms.items()},
            )
        lines: list[str] = []
        for name, (kind, meaning) in _HELP.items():
            lines += [f"# HELP valor_{name} {meaning}", f"# TYPE valor_{name} {kind}"]
            for (_, labels), value in _of(values, name):
                lines.append(f"valor_{name}{_written(labels)} {value:g}")
            for (_, labels), row in _of(histograms, name):
                total = 0.0
                for bound, number in zip((*map(str, _BUCKETS), "+Inf"), row[:-1], strict=True):
                    total += number
                    lines.append(
                        f"valor_{name}_bucket{_written((*labels, ('le', bound)))} {total:g}"
                    )
                lines.append(f"valor_{name}_sum{_written(labels)} {row[-1]:g}")
                lines.append(f"valor_{name}_count{_written(labels)} {total:g}")
        return "\n".join(lines) + "\n"


def resident_bytes() -> int:
    """Memory of this process now; where the system does not tell, the most it ever was."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _of(table: dict, name: str) -> list:
    return sorted(item for item in table.items() if item[0][0] == name)


def _written(labels: Labels) -> str:
    pairs = ",".join(f'{key}="{value}"' for key, value in labels)
    return f"{{{pairs}}}" if pairs else ""
