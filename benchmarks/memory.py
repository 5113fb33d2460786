"""Peak memory of a call: of tensors exactly, of the process as the system saw it."""

from __future__ import annotations

import gc
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import Call

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def tensor_peak(call: Call, device: torch.device) -> int:
    """Most bytes of tensors that the call held at once, beyond those that were there before.

    On a CPU the allocator's own record: what a kernel takes past it (a thread's stack, `malloc`) is not in it.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    held = peak = 0
    events = record.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def process_peak(call: Call) -> int | None:
    """Most bytes of the whole process in memory during the call; None where the system does not tell (not Linux)."""
    gc.collect()
    try:
        _RESET.write_text("5")
        call()
        (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    except OSError:
        return None
    return int(line.split()[1]) * 1024
