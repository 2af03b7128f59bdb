"""The page of the report: one HTML file that needs no network and no JavaScript."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from tfmix.budget import format_bytes
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.report import charts

#: Rows of a chart of sensitivities; those below are counted.
_SHOWN = 40


def page(facts: Mapping[str, Any]) -> str:
    """HTML of what `facts.gather` found."""
    sections = [
        _summary(facts),
        _memory(facts),
        _bits(facts),
        _layers(facts),
        _one_more_kilobyte(facts),
        _sensitivity(facts),
    ]
    return _PAGE.format(
        title=escape(facts["name"]), style=_STYLE, body="\n".join(filter(None, sections))
    )


# -- sections -----------------------------------------------------------------------------------


def _summary(facts: Mapping[str, Any]) -> str:
    memory, instructions = facts["memory"], facts["instructions"]
    verdict = ""
    if facts["budget"] is not None:
        verdict = (
            '<p class="verdict fits">fits the budget</p>'
            if memory["fits"]
            else '<p class="verdict not">does not fit the budget</p>'
        )
    meters = charts.meter("FLASH", memory["flash_bytes"], memory["flash_limit"])
    meters += charts.meter("RAM", memory["ram_bytes"], memory["ram_limit"])
    cards = [
        _card("weights", format_bytes(memory["weight_bytes"])),
        _card("activations", format_bytes(memory["activation_bytes"])),
        _card(
            "instructions, modelled",
            _count(instructions["total"]) + "+" * bool(instructions["unknown"]),
        ),
        _card(
            f"at {instructions['clock_hz'] / 1e6:g} MHz, modelled, one a cycle",
            f"{instructions['milliseconds']:.3g} ms",
        ),
    ]
    scores = facts["scores"]
    if scores is not None:
        name = scores["measure"].replace("_", " ")
        cards += [
            _card(f"{name}, {network.replace('_', '-')}", _score(scores["measure"], value))
            for network, value in scores["values"].items()
        ]
    note = ""
    if scores is not None:
        note = f"<p>Measured on {scores['samples']:,} samples.</p>"
        if scores["measure"] == "agreement":
            first = next(iter(scores["values"])).replace("_", "-")
            note = (
                f"<p>On {scores['samples']:,} samples without labels: the share for which a "
                f"network's class is that of the {first} network.</p>"
            )
    return (
        f"<header><h1>{escape(facts['name'])}</h1>{verdict}</header>"
        f'<section>{meters}<div class="cards">{"".join(cards)}</div>{note}</section>'
    )


def _memory(facts: Mapping[str, Any]) -> str:
    steps, memory = facts["steps"], facts["memory"]
    bits = {t["name"]: t["bits"] for t in facts["tensors"]["activations"]}
    chart = charts.memory_over_steps(steps, memory["interpreter_bytes"], memory["ram_limit"])
    chains = ""
    if any(step["layers"] for step in steps):
        chains = (
            "<p>Steps with two names are layers that run together, row by row: of the tensors "
            "between them only some rows are in memory, as scratch.</p>"
        )
    return _section(
        "Memory over the schedule",
        f"<p>RAM that must be there while each step runs; the most at "
        f"<b>{escape(memory['peak_step'] or '')}</b>.</p>{chains}",
        charts.legend(charts.ROLES),
        chart,
        "<h3>What is alive when</h3><p>Each tensor, from the step that writes it to the last one "
        "that reads it.</p>",
        charts.bits_legend(),
        charts.lifetimes(steps, bits),
    )


def _bits(facts: Mapping[str, Any]) -> str:
    parts = [charts.bits_legend(), "<p>Pale: what 8 bits would take.</p>"]
    for kind, tensors in facts["tensors"].items():
        parts += [f"<h3>{kind}</h3>", charts.bits_of_tensors(tensors)]
    return _section("Bits per tensor", *parts)


def _layers(facts: Mapping[str, Any]) -> str:
    instructions = facts["instructions"]
    errors = {e["node"]: e for e in facts["errors"] or ()}
    head = ["layer", "kind", "in", "w", "out", "weights B", "live B", "instructions", "ms"]
    if errors:
        head += ["own dB", "so far dB", "off, LSB"]
    rows = []
    for step in facts["steps"]:
        rows.append(_layer(step, instructions, errors))
        rows += [_layer(layer, instructions, errors) for layer in step["layers"]]
    at_8, by_rows = instructions["total_at_8_bits"], ""
    if instructions["row_by_row"]:
        by_rows = f", of which running row by row adds {_count(instructions['row_by_row'])}"
    parts = [
        f"<p>Instructions are {escape(instructions['source'])}: {_count(instructions['total'])} "
        f"in all{by_rows}, {_count(at_8)} with 8 bits everywhere, for "
        f"{_count(instructions['macs'])} multiply-accumulates. Milliseconds take one instruction "
        "a cycle at "
        f"{instructions['clock_hz'] / 1e6:g} MHz; only a board can measure them.</p>"
    ]
    if instructions["unknown"]:
        names = ", ".join(map(escape, instructions["unknown"]))
        parts.append(f"<p>Not in the sum, since their kernels were not measured: {names}.</p>")
    if errors:
        parts.append(
            "<p>Errors are signal to noise in dB against the same weights in float, more is "
            "better: the layer's own, on float inputs, and with those of all layers so far. Off, "
            "in LSB: integers against fake-quant on the same inputs, at most.</p>"
        )
    parts.append(_table(head, rows, text=2))
    reasons = [(e["node"], e["reason"]) for e in errors.values() if e["reason"]]
    if reasons:
        items = "".join(f"<li>{escape(n)}: {escape(reason)}</li>" for n, reason in reasons)
        parts.append(f"<p>Where integers are more than one LSB off:</p><ul>{items}</ul>")
    return _section("Layer by layer", *parts)


def _layer(
    step: Mapping[str, Any], instructions: Mapping[str, Any], errors: Mapping[str, Any]
) -> list[str]:
    """A row of the table."""
    count = instructions["layers"].get(step["name"])
    row = [
        step["name"],
        step["op"],
        "+".join(map(str, step["input_bits"])),
        "" if step["weight_bits"] is None else str(step["weight_bits"]),
        str(step["activation_bits"]),
        _or_nothing(step["weight_bytes"]),
        _or_nothing(step["live_bytes"]),
        "" if count is None else f"{count:,}",
        "" if count is None else f"{1e3 * count / instructions['clock_hz']:.3f}",
    ]
    if errors:
        e = errors.get(step["name"], {})
        row += [_decibels(e.get("own_db")), _decibels(e.get("total_db"))]
        row.append(f"{e['integer_max_lsb']:.0f}" if e else "")
    return row


def _one_more_kilobyte(facts: Mapping[str, Any]) -> str:
    more = facts["one_more_kilobyte"]
    if more is None:
        return ""
    parts = [
        f"<p>The sensitivities of this policy sum up to {more['policy']:.4g} nats a sample, those "
        f"of the optimum within the budget to {more['optimum']:.4g}"
        + ("" if more["is_optimum"] else ", which knows nothing of pairs of tensors")
        + ". The integer program solved again:</p>"
    ]
    items = []
    for what in ("flash", "ram"):
        if what not in more:
            continue
        found = more[what]
        text = f"one more kB of {what.upper()} gains {found['gain']:.4g} nats a sample"
        if found["changes"]:
            changes = (f"{c['name']} {c['from']} to {c['to']}" for c in found["changes"])
            text += f": {', '.join(changes)} bits"
        items.append(f"<li>{escape(text)}</li>")
    return _section("One more kilobyte", *parts, f"<ul>{''.join(items)}</ul>")


def _sensitivity(facts: Mapping[str, Any]) -> str:
    table = facts["sensitivity"]
    if table is None:
        return ""
    parts = [
        f"<p>Loss increase in nats a sample, {escape(table['source'] or 'source unknown')}.</p>"
    ]
    for kind in ("weights", "activations"):
        for bits in BIT_WIDTHS[-2::-1]:
            rows = sorted(
                ((name, row[str(bits)]) for name, row in table[kind].items()),
                key=lambda item: -item[1],
            )
            parts.append(f"<h3>{kind} at {bits} bits</h3>")
            parts.append(charts.bars(((n, v, f"{v:.3g}") for n, v in rows[:_SHOWN]), f"b{bits}"))
            if len(rows) > _SHOWN:
                parts.append(f"<p>{len(rows) - _SHOWN} more, below {rows[_SHOWN][1]:.3g}.</p>")
    return _section("Sensitivity", *parts)


# -- pieces -------------------------------------------------------------------------------------


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _card(name: str, value: str) -> str:
    return f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], text: int) -> str:
    """text: how many columns, from the left, are no numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{'' if i < text else ' class=n'}>{escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{line(head, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _count(value: int) -> str:
    for size, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{name}"
    return str(value)


def _score(measure: str, value: float) -> str:
    return f"{value:.4g}" if measure == "mean_squared_error" else f"{100 * value:.2f} %"


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _or_nothing(size: int) -> str:
    return f"{size:,}" if size else ""


_STYLE = """
:root{color-scheme:light dark;--ink:#1c2733;--soft:#5f6b76;--page:#fff;--card:#f3f5f7;
--line:#d5dbe1;--b8:#1b3a5c;--b4:#2f8f9d;--b2:#f0b33c;--held:#8a6fb0;--scratch:#b9c2cb;--interp:#7d8894;
--over:#c0392b;--ok:#1e7b4c}
@media(prefers-color-scheme:dark){:root{--ink:#e3e9ef;--soft:#9aa7b3;--page:#12181f;--card:#1b242d;
--line:#33404c;--b8:#5b9bd5;--b4:#45b5a5;--b2:#f0b33c;--held:#b39ddb;--scratch:#5c6873;
--interp:#8492a0;--over:#ff7b6b;--ok:#5fce94}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:68rem;padding:1rem;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:.2rem 0;overflow-wrap:anywhere}
h2{font-size:1.2rem;border-bottom:1px solid var(--line);padding-bottom:.2rem;margin:2.2rem 0 .6rem}
h3{font-size:1rem;margin:1.2rem 0 .4rem}
p,li{max-width:44rem}
header{display:flex;flex-wrap:wrap;gap:.3rem 1rem;align-items:center;justify-content:space-between}
footer{margin:2.5rem 0 1rem;color:var(--soft);font-size:.85rem}
.verdict{margin:0;font-weight:600;padding:.1rem .7rem;border:2px solid;border-radius:1rem}
.fits{color:var(--ok)}.not{color:var(--over)}
.meter{margin:.5rem 0}.meter span{display:inline-block;min-width:4rem;color:var(--soft)}
.meter svg{background:var(--card)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.6rem;
margin:1rem 0}
.cards div{background:var(--card);border-radius:.4rem;padding:.5rem .7rem}
.cards b{display:block;font-size:1.25rem}
.cards span{color:var(--soft);font-size:.85rem;line-height:1.25;display:block}
svg{display:block;width:100%}
svg.bar{height:.8rem;border-radius:2px}
svg.lane{background:var(--card)}
svg.tall{height:15rem;background:var(--card);border-radius:.3rem}
figure{margin:.6rem 0}figcaption{color:var(--soft);font-size:.85rem}
.ends{display:flex;justify-content:space-between;gap:1rem}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;list-style:none;padding:0;margin:.5rem 0;
font-size:.9rem}
.legend i{display:inline-block;width:.9rem;height:.9rem;border-radius:2px;margin-right:.4rem;
vertical-align:-.1rem}
.row{display:grid;grid-template-columns:12rem 1fr 8.5rem;gap:.7rem;align-items:center;
font-size:.9rem;padding:.08rem 0}
.row span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.row small{color:var(--soft);text-align:right;font-size:.85rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .55rem;text-align:left;white-space:nowrap;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600}.n{text-align:right}
td:first-child,th:first-child{position:sticky;left:0;background:var(--page);max-width:11rem;
overflow:hidden;text-overflow:ellipsis}
.used{fill:var(--b4)}.over{fill:var(--over)}.ghost{fill:var(--line)}
.b8{fill:var(--b8);background:var(--b8)}.b4{fill:var(--b4);background:var(--b4)}
.b2{fill:var(--b2);background:var(--b2)}
.input{fill:var(--b8);background:var(--b8)}.output{fill:var(--b4);background:var(--b4)}
.held{fill:var(--held);background:var(--held)}
.scratch{fill:var(--scratch);background:var(--scratch)}
.interpreter{fill:var(--interp);background:var(--interp)}
.limit{stroke:var(--over);stroke-width:2;stroke-dasharray:6 4;vector-effect:non-scaling-stroke}
@media(max-width:40rem){.row{grid-template-columns:1fr auto;gap:0 .6rem;padding:.15rem 0}
.row svg{grid-row:2;grid-column:1/-1}}
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}: tfmix report</title>
<style>{style}</style>
</head>
<body>
{body}
<footer>Written by tfmix; the same facts are in the .json file of the same name.</footer>
</body>
</html>
"""
