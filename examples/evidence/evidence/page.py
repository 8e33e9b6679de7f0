"""The report as one HTML page that a person can read, print and hand on.

Owns: wording and layout. The page holds no script and loads nothing; every value in it is escaped, and characters that
would hide or reorder text are written out.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from .findings import KINDS, JsonObject

SHOWN_MAX = 500
"""Rows of one kind of finding on the page; `report.json` always has all."""

DIGITS_SHOWN = 16

Row = tuple[str, Sequence[str]]
"""The class of a table row, and its cells, already HTML."""


def page_of(report: JsonObject, digests: dict[str, str]) -> str:
    """Return the page; `digests` are the SHA-256 of the files that lie beside it, by name."""
    body = "\n".join(
        (
            _head(report),
            _findings(report),
            _distributions(report),
            _licences(report),
            _outside(report),
            _how_to_verify(report, digests),
        )
    )
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evidence report: Python environment {report["environment"]["$tree"][:DIGITS_SHOWN]}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def safe(value: object) -> str:
    """Return text for HTML: escaped, with control and formatting characters (such as bidi overrides) written out."""
    return "".join(_visible(character) for character in html.escape(str(value)))


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in {"Cc", "Cf", "Zl", "Zp", "Co", "Cn"}
    return f"\\u{{{ord(character):x}}}" if hidden else character


def _code(value: object) -> str:
    return f"<code>{safe(value)}</code>"


def _short(digest: str | None) -> str:
    return "-" if digest is None else f'<code title="{safe(digest)}">{safe(digest[:DIGITS_SHOWN])}</code>'


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _table(heads: Sequence[str], rows: Iterable[Row], *, numbers: Sequence[int] = (), kind: str = "") -> str:
    """Return a table of the class `kind`; `numbers` are the places of the columns that hold figures."""

    def cell(place: int, text: str, tag: str) -> str:
        return f'<{tag} class="number">{text}</{tag}>' if place in numbers else f"<{tag}>{text}</{tag}>"

    head = "".join(cell(place, text, "th") for place, text in enumerate(heads))
    lines = [
        f'<tr class="{mark}">'
        + "".join(cell(place, text, "td") for place, text in enumerate(cells))
        + "</tr>"
        for mark, cells in rows
    ]
    return "\n".join(
        (
            f'<table class="{kind}">',
            f"<thead><tr>{head}</tr></thead>",
            "<tbody>",
            *lines,
            "</tbody>",
            "</table>",
        )
    )


def _head(report: JsonObject) -> str:
    summary = report["summary"]
    figures = (
        ("Distributions", summary["distributions"], False),
        ("Files", summary["files"], False),
        ("Intact", summary["checked"]["ok"], False),
        ("Changed", summary["checked"]["changed"], True),
        ("Missing", summary["checked"]["missing"], True),
        ("Unlisted", summary["checked"]["unlisted"], True),
        ("Licence unknown", summary["licencesUnknown"], False),
    )
    tiles = "\n".join(
        f"<div{' class=alarm' if alarm and count else ''}><dt>{name}</dt><dd>{count:,}</dd></div>"
        for name, count, alarm in figures
    )
    return f"""<header>
<p class="kicker">Evidence report</p>
<h1>Python environment</h1>
<p class="soft">Content of the environment, SHA-256 of its file list: {_code(report["environment"]["$tree"])}</p>
</header>
{_verdict(report)}
<dl class="figures">
{tiles}
</dl>
<p class="soft">Intact, changed and missing count lines of RECORD. A RECORD cannot list its own hash.</p>"""


def _verdict(report: JsonObject) -> str:
    summary = report["summary"]
    intact = summary["checked"]["ok"]
    if not summary["problems"]:
        return (
            f'<p class="verdict good">No findings.<span>{_plural(intact, "file")} compared; each is byte for byte what '
            "the RECORD of its distribution says, and there is no file that no distribution lists.</span></p>"
        )
    owners = {each["distribution"] for each in report["findings"]}
    known = len(owners - {None})
    places = [_plural(known, "distribution")] if known else []
    places += ["files of no distribution"] if None in owners else []
    return (
        f'<p class="verdict bad">{_plural(summary["problems"], "finding")}, in {" and in ".join(places)}.'
        f"<span>{_plural(intact, 'file')} are byte for byte what the RECORD of their distribution says. What a finding "
        "means for a release is for a person to decide.</span></p>"
    )


def _findings(report: JsonObject) -> str:
    if not report["findings"]:
        return ""
    parts = ["<section>", "<h2>Findings</h2>"]
    for kind, meaning in KINDS.items():
        found = [each for each in report["findings"] if each["kind"] == kind]
        if found:
            parts.append(f'<h3><span class="count">{len(found):,}</span> {meaning}</h3>')
            parts.append(_finding_table(found[:SHOWN_MAX]))
        if len(found) > SHOWN_MAX:
            parts.append(f"<p>{len(found) - SHOWN_MAX:,} more are listed in <code>report.json</code>.</p>")
    return "\n".join((*parts, "</section>"))


def _finding_table(found: list[JsonObject]) -> str:
    """Return the table of findings of one kind; with a third column only if one of them has something to say in it."""
    cells = [_finding_cells(each) for each in found]
    if not any(details for _, _, details in cells):
        return _table(("Path", "Distribution"), [("", row[:2]) for row in cells], kind="findings brief")
    head = "Hash" if "expected" in found[0] else "Details"
    return _table(("Path", "Distribution", head), [("", row) for row in cells], kind="findings")


def _finding_cells(found: JsonObject) -> tuple[str, str, str]:
    details = safe(found["detail"])
    if "expected" in found:
        algorithm = safe(found["algorithm"])
        details = (
            f'<dl class="hashes"><dt>{algorithm} listed</dt><dd>{_code(found["expected"])}</dd>'
            f"<dt>{algorithm} found</dt><dd>{_code(found['actual'])}</dd></dl>"
        )
    owner = (
        '<span class="soft">of none</span>' if found["distribution"] is None else _name(found["distribution"])
    )
    return _code(found["path"]), owner, details


def _name(directory: str) -> str:
    """Return the name and version that a metadata directory is named for."""
    return safe(directory.removesuffix(".dist-info").removesuffix(".egg-info"))


def _distributions(report: JsonObject) -> str:
    heads = (
        "Distribution",
        "Version",
        "Installed by",
        "From",
        "Intact",
        "Findings",
        "Licence",
        "SHA-256 of RECORD",
    )
    rows = []
    for each in report["distributions"]:
        cells = (
            safe(each["name"]),
            safe(each["version"]),
            safe(each["installer"] or "-"),
            _origin(each["origin"]),
            f"{each['checked']['ok']:,}",
            f"{each['problems']:,}" if each["problems"] else "-",
            safe(each["licence"]["label"]),
            _short(each["recordSha256"]),
        )
        rows.append(("flagged" if each["problems"] else "", cells))
    return f"""<section>
<h2>Distributions</h2>
<p class="soft">The first {DIGITS_SHOWN} digits of each RECORD's hash; all are in <code>report.json</code>. Two machines whose
RECORD hashes agree, and which have no findings, hold the same files of that distribution.</p>
{_table(heads, rows, numbers=(4, 5), kind="distributions")}
</section>"""


def _origin(origin: JsonObject | None) -> str:
    if origin is None:
        return "package index"
    if origin["kind"] == "local":
        return "this machine, editable" if origin["editable"] else "this machine"
    if origin["kind"] == "vcs":
        return f"{safe(origin['url'] or 'this machine')} at {_short(origin['commit'])}"
    return (
        safe(origin.get("url") or "archive on this machine")
        if origin["kind"] == "archive"
        else safe(origin["kind"])
    )


def _licences(report: JsonObject) -> str:
    by_label: dict[str, list[JsonObject]] = {}
    for each in report["distributions"]:
        by_label.setdefault(each["licence"]["label"], []).append(each)
    unknown = [each for each in report["distributions"] if each["licence"]["source"] == "unknown"]
    note = ""
    if unknown:
        names = ", ".join(safe(f"{each['name']} {each['version']}") for each in unknown)
        note = f'<p class="note"><strong>No licence declared:</strong> {names}</p>'
    rows = []
    for label, users in sorted(by_label.items(), key=lambda item: (-len(item[1]), item[0])):
        texts = sum(len(each["licence"]["files"]) for each in users)
        names = ", ".join(safe(each["name"]) for each in users)
        rows.append(("", (safe(label), f"{len(users):,}", f"{texts:,}", names)))
    return f"""<section>
<h2>Licences</h2>
<p class="soft">As declared by the distributions: an SPDX expression where there is one, else classifiers, else free text. The
hash of each licence text is in <code>report.json</code>.</p>
{note}
{_table(("Licence", "Distributions", "Texts", "Used by"), rows, numbers=(1, 2), kind="licences")}
</section>"""


def _outside(report: JsonObject) -> str:
    by_owner: dict[str, list[str]] = {}
    for each in report["outside"]:
        by_owner.setdefault(each["distribution"], []).append(each["path"])
    if not by_owner:
        return ""
    rows = [
        ("", (_name(owner), ", ".join(_code(path) for path in paths))) for owner, paths in by_owner.items()
    ]
    return f"""<section>
<h2>Not covered: files outside the environment</h2>
<p class="soft">{_plural(len(report["outside"]), "file")} that distributions installed beyond the directory given as input, such as
scripts. They were not opened.</p>
{_table(("Distribution", "Paths as RECORD gives them"), rows)}
</section>"""


def _how_to_verify(report: JsonObject, digests: dict[str, str]) -> str:
    rows = [("", (_code(name), _code(digest))) for name, digest in sorted(digests.items())]
    names = " ".join(sorted(digests))
    tree = report["environment"]["$tree"]
    return f"""<section>
<h2>How to verify this report</h2>
<ol>
<li><strong>The files beside this page.</strong> They have these SHA-256 digests, as <code>sha256sum {names}</code> prints:
<div class="digests">{_table(("File", "SHA-256"), rows)}</div></li>
<li><strong>That the report follows from the environment.</strong> It carries no time and no machine: the same environment
({_short(tree)}) gives the same bytes. Sovrun recorded the run that made it, with who asked and when; replaying that run does all
of the work again and compares:
<pre>sovrun replay RUN</pre></li>
<li><strong>A single file, by hand.</strong> <code>sha256sum PATH</code> within the environment gives the digest that a finding
calls &ldquo;found&rdquo;; RECORD holds the same digest as base64 without padding.</li>
</ol>
<h3>What this report does not show</h3>
<ul>
<li>RECORD is not signed. Someone who can change a file can change its line in RECORD too; compare the hashes of RECORD with those
of a machine you trust, or install again from archives whose hashes are locked.</li>
<li>Bytecode caches (<code>__pycache__</code>, <code>*.pyc</code>) are not part of the environment's content and were not looked at.</li>
<li>The interpreter, its standard library and system libraries are outside the directory that was examined.</li>
</ul>
</section>"""
