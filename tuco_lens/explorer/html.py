"""The explorer's texts as HTML: continuations, the table of next tokens, the status line. Everything is escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tuco_lens.plots.labels import readable, token_label

if TYPE_CHECKING:
    from tuco_lens.explorer.view import ExplorerView, NextTokens, Response
    from tuco_lens.explorer.why import CellWhy
    from tuco_lens.plots.token_strip import TokenStrip

TOKEN_CHARACTERS: Final = 24
"""Length at which a token is cut in the table."""
MESSAGE_CHARACTERS: Final = 400
"""Length at which an error is cut in the status line."""
_BAR: Final = "rgba(86,180,233,.45)"  # seen on light and on dark ground

# The variables are JupyterLab's, so the text follows its theme; elsewhere it has the colour of its surroundings.
STYLE: Final = """<style>
.tuco-lens-explorer .widget-html-content, .tuco-lens-explorer .jupyter-widgets
  {color:var(--jp-ui-font-color1,inherit);overflow:visible}
.tuco-lens-explorer .widget-html-content {line-height:1.5}
.tuco-lens-explorer h4 {margin:6px 0 4px;font-size:13px;font-weight:600}
.tuco-lens-explorer .quiet {opacity:.75;font-weight:400}
.tuco-lens-explorer .error {color:var(--jp-error-color0,#c62828);font-weight:600}
.tuco-lens-explorer table {border-collapse:collapse;font-size:13px}
.tuco-lens-explorer th, .tuco-lens-explorer td {padding:2px 8px 2px 4px;text-align:left;border:0}
.tuco-lens-explorer th {border-bottom:1px solid currentColor;font-weight:600}
.tuco-lens-explorer td.number {min-width:48px;width:84px;font-variant-numeric:tabular-nums}
.tuco-lens-explorer td.token {font-family:ui-monospace,monospace;overflow-wrap:anywhere}
.tuco-lens-explorer .jupyter-widget-TabPanel > .widget-tab-contents
  {padding:8px 0!important;border-width:1px 0 0!important}
.tuco-lens-explorer .widget-checkbox label {display:flex;align-items:center}
.tuco-lens-explorer .widget-checkbox input {margin:0 6px 0 0}
</style>"""
STOP_WORDS: Final = {
    "eos": "ends here",
    "stop": "ends here",
    "length": "cut here",
    "context": "the context is full",
}


def alpha_words(alphas: Sequence[float]) -> str:
    """α in words: one number, one for a range of layers, or by layer."""
    if len(set(alphas)) == 1:
        return f"α = {alphas[0]:g}"
    others = [layer for layer, alpha in enumerate(alphas) if alpha != 1]
    first, last = others[0], others[-1]
    if len({alphas[layer] for layer in range(first, last + 1)}) > 1:
        return "α by layer"
    where = f"layer {first}" if first == last else f"layers {first} to {last}"
    return f"α = {alphas[first]:g} in {where}"


def done(summary: str, seconds: float) -> str:
    """What was found, and how long it took."""
    return f'{html.escape(readable(summary, 4 * MESSAGE_CHARACTERS))} <span class="quiet">{seconds:.1f} s</span>'


def hint(words: str) -> str:
    """What the user may do."""
    return f'<span class="quiet">{html.escape(words)}</span>'


def cell_html(cell: CellWhy) -> str:
    """One cell of the Why tab: its part of the change, by component, and the words that its FTC writes."""
    parts = "".join(_row(html.escape(name), f"{value:+.3f}") for name, value in cell.parts.items())
    where = f"Layer {cell.layer} at {_token(cell.token)} ({cell.position})"
    words = [
        f"<p>{what}: {' '.join(f'<code>{_token(word)}</code>' for word in tokens)}</p>"
        for what, tokens in (("FTC writes", cell.promoted), ("and takes back", cell.suppressed))
    ]
    return f"<h4>{where}: {cell.value:+.3f} of the change</h4><table>{parts}</table>{''.join(words)}"


def _row(name: str, value: str) -> str:
    return f'<tr><td>{name}</td><td class="number">{value}</td></tr>'


def _token(text: str) -> str:
    return f"<bdi>{html.escape(token_label(text, TOKEN_CHARACTERS))}</bdi>"


def status(view: ExplorerView, seconds: float) -> str:
    """One line: α, TuCo, tokens, and how long it took."""
    tuco, n = view.scaled.measurement.tuco, view.prompt.n_tokens
    tokens = "1 token" if n == 1 else f"{n} tokens"
    return f"{alpha_words(view.request.alphas)}: TuCo {tuco:.4f} at the last of {tokens} (in {seconds:.2f} s)"


def failure(message: str) -> str:
    """An error as one line."""
    return f'<span class="error" role="alert">{html.escape(readable(message, MESSAGE_CHARACTERS))}</span>'


def prompt_html(strip: TokenStrip) -> str:
    """The prompt's tokens."""
    return f"<h4>Prompt <span class='quiet'>TuCo at each token</span></h4>{strip.html()}"


def continuation(response: Response, strip: TokenStrip, title: str) -> str:
    """A continuation under its heading."""
    end = STOP_WORDS[response.generation.stop_reason]
    note = f"{response.generation.n_tokens} tokens, {end}"
    return f"<h4>{html.escape(title)} <span class='quiet'>{note}</span></h4>{strip.html()}"


def next_token_table(table: NextTokens, alpha: str) -> str:
    """The table of next tokens, with a bar behind every probability."""
    columns = {"base": table.base, "tuned": table.tuned, alpha: table.scaled}
    heads = "".join(f"<th>{html.escape(name)}</th>" for name, values in columns.items() if values is not None)
    rows = "".join(
        f'<tr><td class="token">{html.escape(token_label(token, TOKEN_CHARACTERS))}</td>'
        + "".join(_cell(values[i]) for values in columns.values() if values is not None)
        + "</tr>"
        for i, token in enumerate(table.tokens)
    )
    missing = "" if table.base is not None else "; no base: it lacks a token of the prompt"
    title = f"<h4>Next token <span class='quiet'>probability{missing}</span></h4>"
    return f"{title}<table><thead><tr><th>token</th>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(probability: float) -> str:
    if math.isnan(probability):
        return '<td class="number" title="not in its vocabulary">–</td>'
    share = f"{100 * probability:.1f}%"
    bar = f"background:linear-gradient(to right,{_BAR} {share},transparent {share})"
    return f'<td class="number" style="{bar}">{probability:.4f}</td>'
