"use strict";
// Draws the figures of a page (tuco_lens/report/figure_page.py), each when it comes into view, for the ground it is on.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const CONFIG = { displayModeBar: false, responsive: true, showSendToCloud: false, plotlyServerURL: "" };
  const dark = matchMedia("screen and (prefers-color-scheme: dark)");
  const figureOf = (div) => figures[Number(div.dataset.index)][dark.matches ? "dark" : "light"];
  const draw = (div) => {
    const { data, layout } = figureOf(div);
    Plotly.react(div, data, layout, CONFIG);
  };
  const isDrawn = (div) => div.querySelector(".plot-container") !== null;
  const divs = [...document.querySelectorAll(".figure")];
  for (const div of divs) div.style.minHeight = `${figureOf(div).layout.height ?? 420}px`;
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "400px" });
  divs.forEach((div) => watcher.observe(div));
  dark.addEventListener("change", () => divs.filter(isDrawn).forEach(draw));
  addEventListener("beforeprint", () => divs.filter((div) => !isDrawn(div)).forEach(draw));
})();
