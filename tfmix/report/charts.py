"""Charts of the report as HTML with inline SVG: text is HTML, shapes are SVG that stretches.

So a chart is readable at any width, and colours follow the page's, light or dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from tfmix.budget import format_bytes
from tfmix.ir.quant import BIT_WIDTHS

#: What is alive during a step, from below.
ROLES = {
    "input": "read",
    "output": "written",
    "held": "held for later",
    "scratch": "scratch",
    "interpreter": "interpreter",
}


def meter(label: str, used: int, limit: int | None) -> str:
    """Bytes in use, and the share of the limit where there is one."""
    text = f"<b>{format_bytes(used)}</b>"
    if limit is not None:
        text += f" of {format_bytes(limit)}, {100 * used / limit:.1f} %"
    share = 100.0 if limit is None else min(100 * used / limit, 100)
    kind = "over" if limit is not None and used > limit else "used"
    bar = f'<rect class="{kind}" width="{share:.2f}" height="1"/>'
    return (
        f'<div class="meter"><span>{escape(label)}</span> {text}'
        f"{_svg(bar, 100, 1, 'bar', f'{used:,} B')}</div>"
    )


def legend(names: Mapping[str, str]) -> str:
    """Class -> what it stands for."""
    items = (f'<li><i class="{c}"></i>{escape(text)}</li>' for c, text in names.items())
    return f'<ul class="legend">{"".join(items)}</ul>'


def bits_legend() -> str:
    return legend({f"b{bits}": f"{bits} bits" for bits in reversed(BIT_WIDTHS)})


def bits_of_tensors(tensors: Sequence[Mapping[str, Any]]) -> str:
    """A row a tensor: its bytes, in the colour of its bits, over those at 8 bits."""
    largest = max((t["bytes_at_8_bits"] for t in tensors), default=1)
    rows = []
    for t in tensors:
        bars = (
            f'<rect class="ghost" width="{t["bytes_at_8_bits"]}" height="1"/>'
            f'<rect class="b{t["bits"]}" width="{t["bytes"]}" height="1"/>'
        )
        note = f"{t['bits']} bits, {format_bytes(t['bytes'])}" + (", fixed" * t["fixed"])
        title = f"{t['name']}: {'x'.join(map(str, t['shape']))}, {note}"
        rows.append(_row(t["name"], _svg(bars, largest, 1, "bar", title), note))
    return _rows(rows)


def memory_over_steps(
    steps: Sequence[Mapping[str, Any]], interpreter: int, limit: int | None
) -> str:
    """A column a step: what is alive, stacked by role; a line at the limit."""
    columns = [_stack(step, interpreter) for step in steps]
    height = max([limit or 0, *(sum(size for _, size in stack) for stack in columns), 1])
    shapes = []
    for x, (step, stack) in enumerate(zip(steps, columns, strict=True)):
        y = height
        shapes.append(f"<g><title>{escape(_step_title(step, interpreter))}</title>")
        for role, size in stack:
            y -= size
            if size:
                shapes.append(
                    f'<rect class="{role}" x="{x + 0.06:.2f}" y="{y}" width="0.88" '
                    f'height="{size}"/>'
                )
        shapes.append("</g>")
    if limit is not None:
        y = height - limit
        shapes.append(f'<line class="limit" x1="0" x2="{len(steps)}" y1="{y}" y2="{y}"/>')
    chart = _svg("".join(shapes), max(len(steps), 1), height, "tall", "RAM in use, step by step")
    top = f"{format_bytes(height)}"
    if limit is not None:
        top += " (dashed: the budget)" if height == limit else f", budget {format_bytes(limit)}"
    return (
        f'<figure><figcaption>{top}</figcaption>{chart}<figcaption class="ends">'
        f"<span>{escape(steps[0]['name']) if steps else ''}</span>"
        f"<span>{escape(steps[-1]['name']) if steps else ''}</span></figcaption></figure>"
    )


def lifetimes(steps: Sequence[Mapping[str, Any]], bits: Mapping[str, int]) -> str:
    """A row a tensor: from the step that writes it to the last one that reads it."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    size: dict[str, int] = {}
    for index, step in enumerate(steps):
        for alive in step["alive"]:
            name = alive["tensor"]
            first.setdefault(name, index)
            last[name], size[name] = index, alive["bytes"]
    rows = []
    for name, start in first.items():
        end = last[name]
        bar = (
            f'<rect class="b{bits.get(name, BIT_WIDTHS[-1])}" x="{start}" '
            f'width="{end - start + 1}" height="1"/>'
        )
        title = f"{name}: {steps[start]['name']} to {steps[end]['name']}, {size[name]:,} B"
        rows.append(
            _row(name, _svg(bar, len(steps), 1, "bar lane", title), format_bytes(size[name]))
        )
    return _rows(rows)


def bars(values: Iterable[tuple[str, float, str]], kind: str = "used") -> str:
    """Rows of (name, value, text); the longest bar is the largest value."""
    values = list(values)
    largest = max((value for _, value, _ in values), default=0) or 1
    return _rows(
        _row(
            name,
            _svg(
                f'<rect class="{kind}" width="{max(value, 0) / largest * 100:.2f}" height="1"/>',
                *(100, 1, "bar", f"{name}: {text}"),
            ),
            text,
        )
        for name, value, text in values
    )


def _stack(step: Mapping[str, Any], interpreter: int) -> list[tuple[str, int]]:
    stack = [(role, step[f"{role}_bytes"]) for role in ("input", "output", "held", "scratch")]
    # What the output of a chain and its input share is there once.
    over = sum(size for _, size in stack) - step["live_bytes"]
    stack[1] = "output", max(stack[1][1] - over, 0)
    return [("interpreter", interpreter), *stack]


def _step_title(step: Mapping[str, Any], interpreter: int) -> str:
    lines = [f"{step['name']}: {step['live_bytes'] + interpreter:,} B"]
    lines += [f"{a['tensor']}, {ROLES[a['role']]}: {a['bytes']:,} B" for a in step["alive"]]
    if step["scratch_bytes"]:
        lines.append(f"scratch: {step['scratch_bytes']:,} B")
    return "\n".join(lines)


def _svg(shapes: str, width: float, height: float, kind: str, title: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" preserveAspectRatio="none" '
        f'role="img"><title>{escape(title)}</title>{shapes}</svg>'
    )


def _row(name: str, chart: str, note: str) -> str:
    return f'<div class="row"><span>{escape(name)}</span>{chart}<small>{escape(note)}</small></div>'


def _rows(rows: Iterable[str]) -> str:
    return f'<div class="rows">{"".join(rows)}</div>'
