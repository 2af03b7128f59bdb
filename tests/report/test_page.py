"""The page says what the facts say, is sound HTML, and needs nothing from outside."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser

import pytest
import searchable

import tfmix
from tfmix.budget import format_bytes
from tfmix.errors import TfmixError
from tfmix.policy.sensitivity import SensitivityTable
from tfmix.report.facts import gather
from tfmix.report.page import page

VOID = {"meta", "rect", "line", "br"}


class Reader(HTMLParser):
    """Text and tags; complains where tags are not closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(html, facts) of a report with everything in it."""
    qmodel, budget = searchable.quantized(), searchable.budget()
    policy = tfmix.search_policy(qmodel, budget, "memory", verbose=0).policy
    tfmix.set_policy(qmodel, policy)
    table = SensitivityTable(
        {name: {4: 0.1, 2: 1.0} for name in policy.weight_bits},
        {name: {4: 0.2, 2: 2.0} for name in policy.activation_bits},
        "made up",
    )
    x, y = searchable.data()
    html, facts = tfmix.write_report(
        qmodel,
        tmp_path_factory.mktemp("report") / "page.html",
        data=(x[:64], y[:64]),
        reference=searchable.trained(),
        budget=budget,
        table=table,
    )
    return html.read_text(), json.loads(facts.read_text())


def drawn(html: str) -> int:
    """Bytes in the chart of memory over steps, without the interpreter's."""
    column = r'<rect class="(\w+)" x="[\d.]+" y="\d+" width="0.88" height="(\d+)"'
    return sum(int(size) for role, size in re.findall(column, html) if role != "interpreter")


def test_it_stands_alone(written):
    html, _ = written
    reader = Reader(html)
    assert {tag for tag, _ in reader.tags}.isdisjoint({"script", "link", "img", "iframe"})
    for _, attributes in reader.tags:
        assert not {"src", "href", "onclick", "onload"} & set(attributes)
    assert "http" not in html and "url(" not in html and "@import" not in html
    assert "prefers-color-scheme:dark" in html and "width=device-width" in html


def test_it_says_what_the_facts_say(written):
    html, facts = written
    text = "".join(Reader(html).text)
    memory = facts["memory"]
    for expected in (
        *("fits the budget", "accuracy, integer", "made up", "One more kilobyte", "modelled"),
        f"{format_bytes(memory['flash_bytes'])} of {format_bytes(memory['flash_limit'])}",
        f"{100 * facts['scores']['values']['integer']:.2f} %",
        *(step["name"] for step in facts["steps"]),
        *(f"{count:,}" for count in facts["instructions"]["layers"].values()),
        *(f"{t['bits']} bits, {format_bytes(t['bytes'])}" for t in facts["tensors"]["weights"]),
    ):
        assert expected in text, expected


def test_bars_are_drawn_to_scale(written):
    html, facts = written
    for tensor in facts["tensors"]["weights"]:
        bar = f'<rect class="b{tensor["bits"]}" width="{tensor["bytes"]}" height="1"/>'
        assert bar in html
    assert drawn(html) == sum(step["live_bytes"] for step in facts["steps"])


def test_what_is_missing_is_left_out(written):
    _, facts = written
    facts = copy.deepcopy(facts)
    for part in ("budget", "scores", "errors", "sensitivity", "one_more_kilobyte"):
        facts[part] = None
    facts["memory"] |= {"flash_limit": None, "ram_limit": None}
    text = "".join(Reader(page(facts)).text)
    for missing in ("budget", "accuracy", "Sensitivity", "One more", "own dB"):
        assert missing not in text


def test_layers_that_run_row_by_row():
    qmodel = searchable.quantized()
    facts = json.loads(json.dumps(gather(qmodel, budget=tfmix.Budget(ram=100))))
    chains = [step for step in facts["steps"] if step["layers"]]
    assert chains
    html = page(facts)
    text = "".join(Reader(html).text)
    for layer in (layer for step in chains for layer in step["layers"]):
        assert f"{facts['instructions']['layers'][layer['name']]:,}" in text
    assert "does not fit the budget" in text and "row by row" in text
    assert drawn(html) == sum(step["live_bytes"] for step in facts["steps"])


def test_names_are_escaped_and_kernels_without_figures_named(written):
    _, facts = written
    facts = copy.deepcopy(facts)
    facts["name"] = facts["steps"][0]["name"] = "<b>&"
    facts["instructions"]["unknown"] = ["odd"]
    html = page(facts)
    Reader(html)
    assert "<b>&<" not in html and "&lt;b&gt;&amp;" in html
    assert "their kernels were not measured: odd" in html


def test_both_files_or_none(tmp_path):
    qmodel = searchable.quantized()
    with pytest.raises(TfmixError, match="the name of the page ends in .html"):
        tfmix.write_report(qmodel, tmp_path / "report.pdf")
    (tmp_path / "r.json").mkdir()
    with pytest.raises(TfmixError, match="cannot write"):
        tfmix.write_report(qmodel, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
    with pytest.raises(TfmixError, match="is not a fake-quant model"):
        tfmix.write_report(searchable.trained(), tmp_path / "r.html")
