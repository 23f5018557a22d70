"""A made-up fleet's metrics, written by the exporter's own code: a good day, and a bad one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from gpuready.health import exporter, nvml_metrics

A100 = "NVIDIA A100 80GB PCIe"


def gpu(index: int, name: str = A100, **more: Any) -> dict[str, Any]:
    """A GPU as `nvml_metrics.read` returns it."""
    base: dict[str, Any] = dict.fromkeys(nvml_metrics.FIELDS)
    base.update(
        index=index,
        uuid=f"GPU-{index:08x}-made-up",
        name=name,
        pci=f"0000:{0x3B + index:02x}:00.0",
        utilization_percent=0,
        memory_utilization_percent=0,
        memory_used_mib=0,
        memory_total_mib=81920,
        temperature_c=34,
        power_watts=42.0,
        power_limit_watts=300.0,
        clock_sm_mhz=210,
        clock_memory_mhz=1593,
        throttled=dict.fromkeys(nvml_metrics.THROTTLE_REASONS.values(), False),
        ecc={"corrected": 0, "uncorrected": 0},
        remapped_rows={"corrected": 0, "uncorrected": 0, "pending": False, "failed": False},
        mig_mode=False,
        processes=[],
        process_utilization={},
    )
    base.update(more)
    return base


def job(pid: int, memory_mib: int, share: int) -> dict[str, Any]:
    """What one process of type C adds to a GPU."""
    return {
        "utilization_percent": share,
        "memory_used_mib": memory_mib,
        "temperature_c": 61,
        "power_watts": 241.0,
        "clock_sm_mhz": 1410,
        "processes": [{"pid": pid, "type": "C", "memory_mib": memory_mib}],
        "process_utilization": {pid: share},
    }


def metrics(
    gpus: list[dict[str, Any]] | None,
    *,
    now: float,
    expected: int,
    drifted: tuple[str, ...] = (),
    verified: Mapping[str, bool] | None = None,
    xids: Mapping[str, Mapping[str, int]] | None = None,
    simulated: bool = False,
    version: str = "580.95.05",
) -> str:
    """A node's file for node_exporter."""
    drift = [
        {"layer": layer, "what": what, "drifted": what in drifted}
        for layer, what in (("host", "driver"), ("container_runtime", "toolkit"), ("framework", "image"))
    ]
    return exporter.render(
        {"simulated": simulated, "expected": {"gpus": expected}},
        {"gpus": gpus, "driver_version": version, "cuda_version": "13.0", "error": None},
        now=now,
        processes={
            4711: {"name": "python3", "container": "training"},
            812: {"name": "python3", "container": None},
        },
        xids=xids or {},
        known_gpus={},
        check={"ok": not drifted, "at": now - 60, "seconds": 0.4, "drift": drift},
        verify={
            "results": [
                {
                    "workload": name,
                    "ok": ok,
                    "at": now - 3600,
                    "seconds": 4.2,
                    "gpus_listed": expected if ok else 0,
                }
                for name, ok in (verified or {"tensorflow-2.9": True}).items()
            ]
        },
        driver={"version": version, "flavour": "open"},
    )


def busy(now: float) -> str:
    """A node where all is well: one GPU computes, one is held, and the counters have something to say."""
    return metrics(
        [
            gpu(0, **job(4711, 40312, 93)),
            gpu(1, processes=[{"pid": 812, "type": "C", "memory_mib": 1024}], memory_used_mib=1024),
        ],
        now=now,
        expected=2,
        simulated=True,
    )


def troubled(now: float) -> str:
    """A node with something wrong in every layer."""
    slowed = dict.fromkeys(nvml_metrics.THROTTLE_REASONS.values(), False) | {"sw_thermal_slowdown": True}
    lost: dict[str, Any] = dict.fromkeys(nvml_metrics.FIELDS)
    lost.update(index=1, error="GPU is lost")
    return metrics(
        [
            gpu(0, "Tesla T4", throttled=slowed, temperature_c=92, ecc={"corrected": 7, "uncorrected": 1}),
            lost,
        ],
        now=now,
        expected=2,
        drifted=("toolkit",),
        verified={"tensorflow-2.9": True, "pytorch-2.5-cu124": False},
        xids={"0000:3c:00": {"79": 1}},
        version="570.172.08",
    )


@contextmanager
def served(*nodes: Any) -> Iterator[list[str]]:
    """Each of the functions as a node_exporter on loopback; their addresses."""
    servers = []
    for node in nodes:

        class Handler(BaseHTTPRequestHandler):
            write = staticmethod(node)

            def do_GET(self) -> None:
                data = self.write(time.time()).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_words: Any) -> None:
                """Nothing: a scrape a second is no news."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
    try:
        yield [f"127.0.0.1:{server.server_address[1]}" for server in servers]
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
