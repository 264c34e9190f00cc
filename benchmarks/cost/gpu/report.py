"""The result of `foldcam bench gpu` in words."""

from __future__ import annotations

from typing import Any


def text_table(document: dict[str, Any]) -> str:
    """One block of lines per network, batch and precision."""
    device = document["device"]
    lines = [f"{device.get('name', device['kind'])}, onnxruntime {device['onnxruntime']}"]
    for case in document["cases"]:
        graph = ", CUDA graph" if case["cuda_graph"] else ""
        lines.append("")
        lines.append(f"{case['network']}, batch {case['batch']}, {case['precision']}{graph}")
        for name, milliseconds in case["milliseconds"].items():
            ratio = case["ratio_to_plain"].get(name)
            against = ""
            if ratio is not None:
                against = f"  {ratio['ratio']:6.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
            off = case["worst_difference_to_cpu"].get(name)
            worst = "" if off is None else f"  off the CPU by {max(off.values()):.1g}"
            lines.append(f"  {name:<32}{milliseconds:10.3f} ms{against}{worst}")
        lines += [f"  {note}" for note in case["notes"]]
    return "\n".join(lines)
