// The three figures: the distribution of TuCo, the layer × token map, and the profile of one token over the layers.

const CONFIG = { displayModeBar: false, showSendToCloud: false, plotlyServerURL: "", doubleClick: "reset", showTips: false };
const TOUCH = matchMedia("(pointer: coarse)").matches;
const DARK = matchMedia("(prefers-color-scheme: dark)");
const STACKED = matchMedia("(max-width: 800px)"); // as in report.css
const PRINT_WIDTH = 690; // px: A4 and Letter, upright, with the browsers' own margins
const MAP_SHARE = 0.68; // of the width, where map and profile stand side by side
const TOP = 30; // px above the map and the profile, whose layers are at the same height
const LAST_LAYER = DATA.layers - 1;

let printing = false;
const theme = () => (DARK.matches && !printing ? "dark" : "light");
const look = () => DATA.looks[theme()];
const widthOf = (div, share) => (printing ? Math.floor(PRINT_WIDTH * share) : div.parentElement.clientWidth);
const steps = (n) => Array.from({ length: n }, (_, i) => i);

function baseLayout(div, share, height, margin) {
  return { template: look().template, width: widthOf(div, share), height, margin: { ...margin, autoexpand: false }, showlegend: false };
}

// --- distribution ---

const MOST_IN_A_BAR = Math.max(...TUNES.flatMap(({ distribution }) => distribution?.counts ?? [])); // of any tune

function drawDistribution(div, { edges, counts }, filterTo) {
  const trace = {
    type: "bar",
    x: counts.map((_, i) => (edges[i] + edges[i + 1]) / 2),
    y: counts,
    width: counts.map((_, i) => 0.96 * (edges[i + 1] - edges[i])),
    text: counts.map((_, i) => `${edges[i].toFixed(4)} to ${edges[i + 1].toFixed(4)}`),
    textposition: "none",
    marker: { color: look().colorway[0] },
    hovertemplate: "TuCo %{text}<br>prompts: %{y}<extra></extra>",
  };
  const layout = baseLayout(div, 1, 200, { l: 48, r: 12, t: 24, b: 44 });
  layout.xaxis = { title: { text: "TuCo" }, fixedrange: true };
  layout.yaxis = { title: { text: "prompts" }, fixedrange: true, rangemode: "tozero", tickformat: "d", nticks: 5 };
  if (TUNES.length > 1) layout.yaxis.range = [0, 1.05 * MOST_IN_A_BAR];
  const isNew = !div.data;
  Plotly.react(div, [trace], layout, CONFIG);
  if (isNew) div.on("plotly_click", ({ points: [{ pointNumber: i }] }) => filterTo(edges[i], edges[i + 1]));
}

// A line where the selected prompt lies.
function markDistribution(div, { index, numbers: { tuco } }) {
  const colour = look().mark;
  const line = { type: "line", x0: tuco, x1: tuco, y0: 0, y1: 1, yref: "paper", line: { color: colour, width: 2 } };
  const name = { x: tuco, y: 1, yref: "paper", yanchor: "bottom", text: `#${index}`, showarrow: false, font: { color: colour } };
  Plotly.relayout(div, Number.isNaN(tuco) ? { shapes: [], annotations: [] } : { shapes: [line], annotations: [name] });
}

// --- layer × token map ---

// Every k-th position from one to another, the last one always, with the smallest k for which there is room.
function labelled(from, to, room) {
  const step = Math.max(1, Math.ceil((to - from + 1) / Math.max(1, room)));
  return steps(to + 1).filter((i) => i >= from && (to - i) % step === 0);
}

function tokenTicks(tokens, [from, to], width) {
  const tickvals = labelled(Math.max(0, Math.ceil(from)), Math.min(tokens.length - 1, Math.floor(to)), Math.floor((width - 60) / 14));
  return { tickvals, ticktext: tickvals.map((i) => plotlyText(tokenLabel(tokens[i].text, 14))) };
}

function cellTexts({ value, norms }, { z, sums, decimals }) {
  return z.map((row, l) => Array.from(row, (share, t) => {
    const lines = [`${value} ${fixed(share, decimals)}`];
    norms?.forEach((name, i) => {
      const norm = (i ? share : 1 - share) * sums[l][t];
      lines.push(`‖${name}‖${DATA.norm} ${Number.isNaN(norm) ? "missing" : `≈ ${Number(norm.toPrecision(2))}`}`);
    });
    return lines.join("<br>");
  }));
}

function differenceTexts({ value }, { z, map, other, decimals }) {
  return z.map((row, l) => Array.from(row, (more, t) => `difference ${signed(more, decimals)}<br>${value} ${fixed(map.z[l][t], decimals)}, of the other ${fixed(other.z[l][t], decimals)}`));
}

function mapTrace({ tokens, maps, differences }, kind) {
  const shown = (differences ?? { maps }).maps[kind.name];
  const texts = tokens.map(({ text, id, role }, i) => `<b>${plotlyText(tokenLabel(text, 60))}</b><br>id ${id}, ${role}, position ${i}`);
  return {
    type: "heatmap",
    z: shown.z,
    x: steps(tokens.length),
    y: steps(DATA.layers),
    zmin: differences ? -shown.top : 0,
    zmax: differences ? shown.top : kind.top,
    colorscale: differences ? DATA.diverging[theme()] : DATA.colours,
    showscale: false,
    text: steps(DATA.layers).map(() => texts),
    customdata: (differences ? differenceTexts : cellTexts)(kind, shown),
    hovertemplate: "%{text}, layer %{y}<br>%{customdata}<extra></extra>",
    hoverongaps: true,
  };
}

// The cell that the table's number stands in: last token, last layer.
function cornerMark(kind, { numbers, differences }, n) {
  const names = { cumulative: ["TuCo", "tuco"], drift: ["OutputCo", "output_co"] };
  if (!(kind.name in names)) return {};
  const [name, column] = names[kind.name];
  const colour = look().mark;
  const cell = { x0: n - 1.5, x1: n - 0.5, y0: LAST_LAYER - 0.5, y1: LAST_LAYER + 0.5 };
  const text = `${name} ${differences ? signed(differences.numbers[column]) : fixed(numbers[column])} ▾`;
  return {
    shapes: [{ type: "rect", ...cell, line: { color: colour, width: 2 } }],
    annotations: [{ text, x: 1, xref: "paper", xanchor: "right", y: 1, yref: "paper", yanchor: "bottom", showarrow: false, font: { color: colour } }],
  };
}

const layerAxis = () => ({ title: { text: "layer" }, dtick: Math.ceil(DATA.layers / 12), range: [-0.5, LAST_LAYER + 0.5], fixedrange: true, automargin: false });

function linkedHeight(tokens) {
  const cells = Math.max(120, DATA.layers * Math.min(28, Math.max(9, 300 / DATA.layers)));
  const label = Math.max(...tokens.map(({ text }) => Array.from(tokenLabel(text, 14)).length));
  const bottom = 40 + Math.ceil(8.4 * label);
  return { height: Math.round(TOP + cells + bottom), bottom };
}

function drawMap(div, view, kind, { select, hover }) {
  const n = view.tokens.length;
  const { height, bottom } = linkedHeight(view.tokens);
  const layout = { ...baseLayout(div, MAP_SHARE, height, { l: 44, r: 8, t: TOP, b: bottom }), ...cornerMark(kind, view, n) };
  const range = [-0.5, n - 0.5];
  layout.xaxis = { title: { text: "token" }, tickangle: -90, range, automargin: false, ...tokenTicks(view.tokens, range, layout.width) };
  layout.yaxis = layerAxis();
  layout.plot_bgcolor = look().missing;
  layout.dragmode = TOUCH ? false : "zoom"; // a finger scrolls the page, a mouse zooms in on tokens
  const isNew = !div.data;
  Plotly.react(div, [mapTrace(view, kind)], layout, CONFIG);
  div.view = view;
  if (!isNew) return;
  div.on("plotly_click", ({ points: [point] }) => select(point.x));
  div.on("plotly_hover", ({ points: [point] }) => hover({ token: point.x, layer: point.y }));
  div.on("plotly_unhover", () => hover({ token: -1, layer: -1 }));
  div.on("plotly_relayout", (change) => {
    if (!("xaxis.range[0]" in change || "xaxis.range" in change || "xaxis.autorange" in change)) return;
    const ticks = tokenTicks(div.view.tokens, div.layout.xaxis.range, div.layout.width);
    Plotly.relayout(div, { "xaxis.tickvals": ticks.tickvals, "xaxis.ticktext": ticks.ticktext });
    div.dispatchEvent(new Event("zoom"));
  });
}

// --- profile of a token ---

const column = (map, token) => map.z.map((row) => row[token]);

const DASHES = ["solid", "dash", "dot"];
const STROKES = ["━━", "– –", "···"];

// In one line, which plotly's own legend would break where the figure is narrow.
function lineNames() {
  const names = DATA.kinds.map(({ line }, i) => `<span style="color:${look().colorway[i]}"><b>${STROKES[i]}</b></span> ${line}`);
  return { text: names.join("\u2003"), x: 0, xref: "paper", xanchor: "left", xshift: -30, y: 1, yref: "paper", yanchor: "bottom", showarrow: false, font: { size: 11 } };
}

function profileTraces(view, token) {
  return DATA.kinds.map(({ name, value }, i) => ({
    x: column(view.maps[name], token),
    y: steps(DATA.layers),
    name: value,
    mode: "lines+markers",
    line: { color: look().colorway[i], dash: DASHES[i], width: 2 },
    marker: { size: 4 },
    hovertemplate: `${value} %{x:.3f}<extra></extra>`,
  }));
}

// The token under the pointer, thin, beside the selected one.
function hoveredTrace(view, kind, token) {
  const x = token < 0 ? [] : column(view.maps[kind.name], token);
  return { x, y: steps(x.length), mode: "lines", line: { color: look().quiet, width: 1.5 }, hoverinfo: "skip", showlegend: false };
}

function drawProfile(div, view, kind, token, { hover }) {
  const { height, bottom } = linkedHeight(view.tokens);
  const room = STACKED.matches && !printing ? bottom - 44 : 0; // below the axis, needed only for rows at equal heights
  const layout = baseLayout(div, 1 - MAP_SHARE, height - room, { l: 44, r: 10, t: TOP, b: bottom - room });
  layout.xaxis = { title: { text: "share of fine-tuning" }, range: [0, 1.04 * view.largest], fixedrange: true, automargin: false };
  layout.yaxis = { ...layerAxis(), unifiedhovertitle: { text: "layer %{y}" } };
  layout.annotations = [lineNames()];
  layout.hovermode = "y unified";
  const isNew = !div.data;
  Plotly.react(div, [...profileTraces(view, token), hoveredTrace(view, kind, -1)], layout, CONFIG);
  if (!isNew) return;
  div.on("plotly_hover", ({ points: [point] }) => hover({ token: -1, layer: point.y }));
  div.on("plotly_unhover", () => hover({ token: -1, layer: -1 }));
}

function pointProfile(div, view, kind, token) {
  const { x, y } = hoveredTrace(view, kind, token);
  Plotly.restyle(div, { x: [x], y: [y] }, [DATA.kinds.length]);
}

// --- bands over the figures ---
// Elements of the page laid over a figure, since to redraw it at every move of the pointer would be slow.

function bandOver(div, name) {
  const figure = div.parentElement;
  const found = figure.querySelector(`.${name}`);
  if (found) return found;
  const band = document.createElement("div");
  band.className = `band ${name}`;
  figure.append(band);
  return band;
}

// Pixels from the start of an axis to where a row or column begins, and how many it takes: cut to what is in view.
function extent(place, [from, to], pixels) {
  const at = (value) => Math.min(pixels, Math.max(0, ((value - from) / (to - from)) * pixels));
  return [at(place - 0.5), at(place + 0.5) - at(place - 0.5)];
}

function placeBand(div, name, place, alongLayers) {
  const band = bandOver(div, name);
  const area = div.querySelector(".nsewdrag");
  const [x, y, width, height] = ["x", "y", "width", "height"].map((side) => Number(area.getAttribute(side)));
  const axis = alongLayers ? div.layout.yaxis : div.layout.xaxis;
  const [start, size] = extent(place, axis.range, alongLayers ? height : width);
  band.hidden = place < 0 || size === 0;
  const box = alongLayers ? [x, y + height - start - size, width, size] : [x + start, y, size, height];
  ["left", "top", "width", "height"].forEach((side, i) => (band.style[side] = `${box[i]}px`));
}
