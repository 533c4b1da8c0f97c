// The token strip: a prompt's text, each token coloured by a number; and the scales that explain the colours.

const SCALE = DATA.colours.map(([place, colour]) => [place, colour.match(/\w\w/g).map((part) => parseInt(part, 16))]);

// As plotly does between the colours of a scale: straight, in RGB.
function colourAt(share) {
  const place = Math.min(1, Math.max(0, share));
  const next = Math.max(1, SCALE.findIndex(([end]) => end >= place));
  const [[from, a], [to, b]] = [SCALE[next - 1], SCALE[next]];
  return a.map((part, i) => Math.round(part + ((b[i] - part) * (place - from)) / (to - from)));
}

// Black or white, whichever has the higher contrast (WCAG 2.1, relative luminance).
function inkOn(colour) {
  const [red, green, blue] = colour.map((part) => part / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
}

function colourBar(colours) {
  const bar = document.createElement("i");
  bar.style.background = `linear-gradient(to right, ${colours.map(([place, colour]) => `${colour} ${100 * place}%`).join(", ")})`;
  return bar;
}

// Of one prompt: what is seldom large would have no colour on a scale for all.
function drawSignedScale(target, label, { top }, colours) {
  const end = Number(top.toPrecision(3));
  target.replaceChildren(`${label}, on a scale of this prompt: `, `−${end} `, colourBar(colours), ` +${end}`);
}

function drawScale(target, label, { top, above }) {
  const bar = colourBar(DATA.colours);
  target.replaceChildren(`${label}, on one scale for all prompts${TUNES.length > 1 ? " and tunes" : ""}: `, "0 ", bar, ` ${Number(top.toPrecision(3))}${above ? " and above" : ""}`);
}

// `select(token)` is called on a click, `hover(token)` when the pointer comes (-1: when it leaves).
function makeStrip({ select, hover }) {
  const strip = element("strip");
  let spans = [];

  function tokenSpan(token, i, tokens, value, top) {
    const span = document.createElement("span");
    span.id = `token-${i}`;
    span.setAttribute("role", "option");
    span.setAttribute("aria-selected", "false");
    span.textContent = token.text;
    if (["system", "user", "assistant"].includes(token.role) && token.role !== tokens[i - 1]?.role) span.dataset.role = token.role;
    if (Number.isNaN(value)) return span; // the style has the colour of missing values
    const colour = colourAt(value / top);
    span.style.background = `rgb(${colour})`;
    span.style.color = inkOn(colour);
    return span;
  }

  function draw(tokens, values, top) {
    spans = tokens.map((token, i) => tokenSpan(token, i, tokens, values[i], top));
    strip.replaceChildren(...spans);
    strip.scrollTop = 0;
  }

  // As in the table: only the strip is scrolled.
  function intoView(token) {
    const span = spans[token];
    const bottom = span.offsetTop + span.offsetHeight - strip.clientHeight;
    strip.scrollTop = Math.max(bottom, Math.min(span.offsetTop, strip.scrollTop));
  }

  function mark(token) {
    strip.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    spans[token].setAttribute("aria-selected", "true");
    strip.setAttribute("aria-activedescendant", `token-${token}`);
  }

  function point(token) {
    strip.querySelector(".hovered")?.classList.remove("hovered");
    spans[token]?.classList.add("hovered");
  }

  const tokenOf = (event) => spans.indexOf(event.target);
  strip.addEventListener("click", (event) => tokenOf(event) >= 0 && select(tokenOf(event)));
  strip.addEventListener("pointermove", (event) => hover(tokenOf(event)));
  strip.addEventListener("pointerleave", () => hover(-1));
  return { draw, mark, intoView, point };
}
