// The page's data: what tuco_lens/report/data.py wrote, and the maps that packing.py packed, one prompt at a time.

function bytesOf(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

function inflate(text) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

const inflatedText = async (id) => new TextDecoder().decode(await inflate(element(id).textContent));

const DATA = JSON.parse(await inflatedText("data"));
const MAPS = element("maps").textContent.split("\n");

// The numbers of each tune; those of the first stand where the only ones of a page without a switch do.
const FIRST = { columns: DATA.columns, distribution: DATA.distribution, scales: DATA.prompts.map(({ scales }) => scales) };
const TUNES = [FIRST, ...(DATA.others ?? [])].map((tune, number) => ({ ...tune, number }));

// plotly.js is deflated in the page. As an element its text is held against the page's content policy, like any script.
async function loadPlotly() {
  const script = document.createElement("script");
  script.textContent = await inflatedText("plotly");
  document.head.append(script);
}

// A reader of consecutive pieces of bytes.
function pieces(buffer) {
  let place = 0;
  return (length) => new Uint8Array(buffer, (place += length) - length, length);
}

// NaN is what plotly takes for missing.
function readShares(take, size, steps, top) {
  const low = take(size);
  const high = steps > 254 ? take(size) : null;
  return Float32Array.from(low, (byte, i) => {
    const code = byte + (high ? 256 * high[i] : 0);
    return code > steps ? NaN : (code / steps) * top;
  });
}

function readNorms(take, size, low, high) {
  const values = [0];
  for (let code = 1; code < 255; code++) values.push(Math.exp(low + ((high - low) * (code - 1)) / 253));
  return Float32Array.from(take(size), (code) => values[code] ?? NaN);
}

function readMap(kind, scales, take, layers, tokens) {
  const [top, low, high] = scales;
  const shares = readShares(take, layers * tokens, kind.steps, top);
  const sums = kind.norms && readNorms(take, layers * tokens, low, high);
  const rows = (values) => Array.from({ length: layers }, (_, l) => values.subarray(l * tokens, (l + 1) * tokens));
  // As many decimals as the steps can tell apart.
  const decimals = Math.min(8, Math.max(1, Math.floor(-Math.log10(top / kind.steps))));
  return { z: rows(shares), sums: sums && rows(sums), decimals, missing: shares.filter(Number.isNaN).length };
}

function unrolled(runs) {
  return runs.flatMap(([role, length]) => Array(length).fill(role));
}

// The maps of a prompt in one tune, by the names of their kinds.
async function mapsOf(index, tune) {
  const take = pieces(await inflate(MAPS[tune.number * DATA.prompts.length + index]));
  const { tokens } = DATA.prompts[index];
  return Object.fromEntries(DATA.kinds.map((kind, i) => [kind.name, readMap(kind, tune.scales[index][i], take, DATA.layers, tokens.length)]));
}

const numbersOf = (index, tune) => Object.fromEntries(Object.entries(tune.columns).map(([name, values]) => [name, values[index] ?? NaN]));

// A map less that of another tune, cell by cell, and the largest difference of either sign.
function difference(map, other) {
  const z = map.z.map((row, l) => row.map((share, t) => share - other.z[l][t]));
  const cells = z.flatMap((row) => Array.from(row)).filter((value) => !Number.isNaN(value));
  const top = cells.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
  return { z, map, other, top, decimals: Math.min(map.decimals, other.decimals), missing: DATA.layers * z[0].length - cells.length };
}

// What a prompt has more of than in the tune `less`: numbers, and maps by the names of their kinds.
async function differencesOf(index, { maps, numbers }, less) {
  const [others, theirs] = [await mapsOf(index, less), numbersOf(index, less)];
  return {
    maps: Object.fromEntries(DATA.kinds.map(({ name }) => [name, difference(maps[name], others[name])])),
    numbers: Object.fromEntries(Object.entries(numbers).map(([name, value]) => [name, value - theirs[name]])),
  };
}

// All that is shown of one prompt: its tokens, and of one tune its numbers and maps; what they are more than those of
// the tune `less`, if there is one.
async function openPrompt(index, tune, less) {
  const prompt = DATA.prompts[index];
  const roles = unrolled(prompt.roles);
  const tokens = prompt.tokens.map((place, i) => {
    const [text, id] = DATA.tokens[place];
    return { text, id, role: roles[i] };
  });
  const own = { maps: await mapsOf(index, tune), numbers: numbersOf(index, tune) };
  const differences = less && (await differencesOf(index, own, less));
  const largest = Math.max(...TUNES.flatMap(({ scales }) => scales[index].map(([top]) => top)));
  return { index, tune, tokens, ...own, differences, largest, dropped: prompt.dropped };
}

const fixed = (value, decimals = 4) => (Number.isFinite(value) ? value.toFixed(decimals) : "missing");

const signed = (value, decimals) => (value > 0 ? "+" : "") + fixed(value, decimals).replace("-", "−");

// A token on one line: · for a space, ↵ for a line break, cut to so many columns, of which wide characters take two.
function tokenLabel(text, columns) {
  const characters = Array.from(text.replaceAll("\n", "").replaceAll(" ", "·"));
  let width = 0;
  const end = characters.findIndex((character) => (width += character.codePointAt(0) < 0x1100 ? 1 : 2) > columns);
  return end < 0 ? characters.join("") : `${characters.slice(0, end - 1).join("")}…`;
}

// Plain text as plotly must be given it to draw it unchanged: plotly reads a part of HTML, and $…$.
function plotlyText(text) {
  const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", $: "&#36;" };
  return text.replace(/[&<>$]/g, (character) => escapes[character]);
}
