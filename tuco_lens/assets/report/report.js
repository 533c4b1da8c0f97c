// What is selected and pointed at, and who is told of it. The address names the selected prompt, and the tune unless it
// is the first: #prompt-12, #prompt-12-tune-1.

const MAP = element("heatmap");
const PROFILE = element("profile");
const NOWHERE = { token: -1, layer: -1 };
const state = { tune: TUNES[0], less: null, index: -1, view: null, token: 0, kind: DATA.kinds[0], hovered: NOWHERE };

// --- words ---

function describePrompt({ index, tokens, dropped, numbers: { tuco, preco, beta, output_co } }) {
  const numbers = { TuCo: tuco, PreCo: preco, β: beta };
  if (output_co !== undefined) numbers.OutputCo = output_co;
  const said = Object.entries(numbers).map(([name, value]) => `${name} ${fixed(value)}`);
  const cut = dropped ? ` (${dropped} more were cut off)` : "";
  element("number").textContent = index;
  element("values").textContent = [...said, `${tokens.length} ${tokens.length === 1 ? "token" : "tokens"}${cut}`].join(" · ");
}

function describeToken({ tokens, maps }, i) {
  const { text, id, role } = tokens[i];
  const shown = document.createElement("bdi");
  shown.textContent = tokenLabel(text, 60);
  const { z, decimals } = maps.cumulative;
  const value = fixed(z[LAST_LAYER][i], decimals);
  element("readout").replaceChildren(`Token ${i + 1} of ${tokens.length}: `, shown, ` (id ${id}, ${role}). TuCo so far, after the last layer: ${value}`);
}

function describeMap({ tokens, maps, differences }, kind) {
  const shown = (differences ?? { maps }).maps[kind.name];
  const { missing } = shown;
  const more = " Shown is how much higher it is in the chosen tune than in the other: blue is higher, orange lower.";
  element("meaning").textContent = kind.meaning + (differences ? more : "");
  element("missing").textContent = `${missing} of ${DATA.layers * tokens.length} values missing; their cells are grey.`;
  element("missing").hidden = missing === 0;
  if (differences) drawSignedScale(element("map-scale"), `${kind.value} less that of ${nameOfLess()}`, shown, DATA.diverging[theme()]);
  else drawScale(element("map-scale"), kind.value, kind);
  MAP.setAttribute("aria-label", `Map: ${differences ? "difference of " : ""}${kind.value}, ${DATA.layers} layers by ${tokens.length} tokens. ← and → select a token.`);
}

// --- selecting and pointing ---

async function showPrompt(index, keepToken = false) {
  state.index = index;
  table.mark(index);
  const { tune, less } = state;
  const view = await openPrompt(index, tune, less);
  if (state.index !== index || state.tune !== tune || state.less !== less) return; // another was chosen meanwhile
  if (!keepToken || state.view?.index !== index) state.token = view.tokens.length - 1;
  state.view = view;
  state.hovered = NOWHERE;
  strip.draw(view.tokens, view.maps.cumulative.z[LAST_LAYER], DATA.kinds[0].top);
  describePrompt(view);
  describeToken(view, state.token);
  strip.mark(state.token);
  drawLinked();
  drawDistributionOf(view);
}

// The same prompt and token in the numbers of another tune.
function showTune(number) {
  state.tune = TUNES[number];
  for (const part of document.querySelectorAll("[data-tune]")) part.hidden = Number(part.dataset.tune) !== number;
  for (const control of document.getElementsByName("tune")) {
    if (control.type === "radio") control.checked = Number(control.value) === number;
    else control.value = number;
  }
  table.renumber();
  return showPrompt(state.index, true);
}

const nameOfLess = () => document.getElementsByName("less")[0].selectedOptions[0].textContent;

// The map less that of another tune, or, without a number, as it is.
function showLess(number) {
  state.less = TUNES[number] ?? null;
  return showPrompt(state.index, true);
}

function showToken(token) {
  state.token = token;
  strip.mark(token);
  strip.intoView(token);
  describeToken(state.view, token);
  if (hasFigures()) drawProfileAndBands();
}

function showKind(name) {
  state.kind = DATA.kinds.find((kind) => kind.name === name);
  drawLinked();
}

let waiting = 0;

function hover(place) {
  const { token, layer } = state.hovered;
  if (!state.view || (place.token === token && place.layer === layer)) return;
  state.hovered = place;
  strip.point(place.token);
  describeToken(state.view, place.token < 0 ? state.token : place.token);
  if (place.token !== token) {
    cancelAnimationFrame(waiting); // at most one redrawing of the curve in a frame
    waiting = requestAnimationFrame(() => hasFigures() && pointProfile(PROFILE, state.view, state.kind, state.hovered.token));
  }
  if (hasFigures()) placeBands();
}

// --- drawing ---

const hasFigures = () => window.Plotly !== undefined;

function placeBands() {
  const { token, layer } = state.hovered;
  const inMap = token >= 0;
  placeBand(MAP, "selected", state.token, false);
  placeBand(MAP, "pointed", token, false);
  // A layer is framed in the other figure: in its own, the frame would lie over the hover text.
  placeBand(MAP, "row", inMap ? -1 : layer, true);
  placeBand(PROFILE, "row", inMap ? layer : -1, true);
}

function drawProfileAndBands() {
  PROFILE.setAttribute("aria-label", `Shares of fine-tuning in token ${state.token + 1}, by layer`);
  drawProfile(PROFILE, state.view, state.kind, state.token, { hover });
  placeBands();
}

function drawLinked() {
  describeMap(state.view, state.kind);
  if (!hasFigures()) return;
  drawMap(MAP, state.view, state.kind, { select: showToken, hover });
  drawProfileAndBands();
}

function drawDistributionOf({ tune: { distribution }, ...view }) {
  if (!hasFigures()) return;
  const div = element("distribution");
  if (!distribution) return Plotly.purge(div);
  drawDistribution(div, distribution, table.filterTo);
  markDistribution(div, view);
}

function drawAll() {
  if (!hasFigures() || !state.view) return;
  drawLinked();
  drawDistributionOf(state.view);
}

// Paper gets the whole table, and figures of its own width and colours.
function drawFor(print) {
  printing = print;
  if (print) table.layOutAll();
  else table.layOut();
  drawAll();
}

// --- the reader ---

const clamp = (token) => Math.min(state.view.tokens.length - 1, Math.max(0, token));

function onViewerKey(event) {
  const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
  if (!(event.key in steps) || !state.view || event.target.matches("input") || event.ctrlKey || event.altKey || event.metaKey) return;
  showToken(clamp(state.token + steps[event.key]));
  event.preventDefault();
}

function choose(index) {
  nameInAddress(index);
  return showPrompt(index).catch(complain);
}

function chooseTune(number) {
  nameInAddress(state.index, number);
  return showTune(number).catch(complain);
}

function nameInAddress(index, tune = state.tune.number) {
  history.replaceState(null, "", `#prompt-${index}${tune ? `-tune-${tune}` : ""}`);
}

// A row's number, or an address with #prompt-12, leads to the prompt itself, in the tune that is shown or named.
function followAddress() {
  const [, digits, tune] = location.hash.match(/^#prompt-(\d+)(?:-tune-(\d+))?$/) ?? [];
  const index = Number(digits ?? -1);
  const number = Number(tune ?? state.tune.number);
  if (!(index in DATA.prompts && number in TUNES)) return false;
  state.index = index;
  const shown = number === state.tune.number ? showPrompt(index) : showTune(number);
  shown.then(() => element("viewer").scrollIntoView()).catch(complain);
  return true;
}

const table = makeTable({ select: choose, enter: () => element("strip").focus(), columns: () => state.tune.columns });
const strip = makeStrip({ select: showToken, hover: (token) => hover({ token, layer: -1 }) });

function listen() {
  element("viewer").addEventListener("keydown", onViewerKey);
  element("previous").addEventListener("click", () => table.move(-1, false));
  element("next").addEventListener("click", () => table.move(1, false));
  for (const radio of document.getElementsByName("kind")) radio.addEventListener("change", () => showKind(radio.value));
  for (const control of document.getElementsByName("tune")) control.addEventListener("change", () => chooseTune(Number(control.value)));
  for (const list of document.getElementsByName("less")) list.addEventListener("change", () => showLess(list.value).catch(complain));
  MAP.addEventListener("zoom", placeBands);
  let pending = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(drawAll);
  });
  DARK.addEventListener("change", drawAll);
  addEventListener("beforeprint", () => drawFor(true));
  addEventListener("afterprint", () => drawFor(false));
  addEventListener("hashchange", followAddress);
}

function start() {
  document.body.classList.add("live");
  if (DATA.prompts.length === 0) return;
  listen();
  drawScale(element("strip-scale"), "TuCo so far, after the last layer", DATA.kinds[0]);
  if (!followAddress()) showPrompt(0).catch(complain);
  loadPlotly().then(drawAll).catch(complain);
}

start();
