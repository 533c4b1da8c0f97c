"use strict";
// Draws the maps of a report (tuco_lens/report.py). All text in the data has been made safe for plotly there.
(() => {
  const { figure, prompts } = JSON.parse(document.getElementById("data").textContent);
  const PRINT_WIDTH = 660; // px: A4 and Letter, upright, with the browsers' own margins
  const CONFIG = { displayModeBar: false, showSendToCloud: false, plotlyServerURL: "" };
  const TOUCH = matchMedia("(pointer: coarse)").matches;
  const drawn = new Set();

  // As labelled_positions in tuco_lens/plots/heatmap.py: every k-th position, the last one always.
  function labelled(n, room) {
    const step = Math.ceil(n / Math.max(1, room));
    return Array.from({ length: Math.ceil(n / step) }, (_, i) => ((n - 1) % step) + i * step);
  }

  function trace({ tokens, roles, z, norms }) {
    const text = tokens.map((token, i) => `<b>${token}</b><br>${roles[i]}, position ${i}`);
    return {
      ...figure.data[0],
      z,
      x: tokens.map((_, i) => i),
      y: z.map((_, layer) => layer),
      text: z.map(() => text),
      // z and the sum of the two norms are stored; ‖ΣPTC‖ and ‖ΣFTC‖ follow.
      customdata: z.map((row, l) => row.map((value, t) => [(1 - value) * norms[l][t], value * norms[l][t]])),
    };
  }

  function layout({ labels, z }, tuco, width) {
    const n = labels.length;
    const layout = structuredClone(figure.layout);
    const ticks = labelled(n, Math.floor((width - 130) / 14));
    Object.assign(layout.xaxis, { tickvals: ticks, ticktext: ticks.map((i) => labels[i]), range: [-0.5, n - 0.5] });
    Object.assign(layout.shapes[0], { x0: n - 1.5, x1: n - 0.5, y0: z.length - 1.5, y1: z.length - 0.5 });
    Object.assign(layout.annotations[0], { x: n - 0.5, text: `TuCo ${tuco} ▾` });
    layout.yaxis.fixedrange = true;
    return { ...layout, width, dragmode: TOUCH ? false : "zoom" }; // a finger scrolls the page, a mouse zooms in on tokens
  }

  function draw(div, width = div.clientWidth - 2 * parseFloat(getComputedStyle(div).paddingLeft)) {
    const prompt = prompts[Number(div.dataset.index)];
    drawn.add(div);
    Plotly.react(div, [trace(prompt)], layout(prompt, div.dataset.tuco, width), CONFIG);
  }

  function openTarget() {
    const target = document.getElementById(location.hash.slice(1));
    if (target instanceof HTMLDetailsElement) target.open = true;
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting && !drawn.has(target)) draw(target);
  }, { rootMargin: "300px" });
  for (const div of document.querySelectorAll(".map")) {
    div.style.minHeight = `${figure.layout.height}px`; // so that the page does not jump when the map is drawn
    watcher.observe(div);
  }

  let pending = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(() => drawn.forEach((div) => div.clientWidth && draw(div)));
  });
  addEventListener("beforeprint", () => document.querySelectorAll("details[open] > .map").forEach((div) => draw(div, PRINT_WIDTH)));
  addEventListener("afterprint", () => drawn.forEach((div) => div.clientWidth && draw(div)));
  addEventListener("hashchange", openTarget);
  openTarget();
})();
