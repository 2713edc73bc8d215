"use strict";
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // Figures come in their light colours; on dark paper each is swapped for its partner.
  function coloured(value) {
    if (typeof value === "string") return (dark.matches && page.dark[value]) || value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, coloured(inner)]));
    }
    return value;
  }

  function draw() {
    for (const [name, figure] of Object.entries(page.figures)) {
      const layout = coloured({ ...figure.layout, uirevision: name });
      Plotly.react(name, coloured(figure.data), layout, { responsive: true, displayModeBar: false });
    }
  }

  makeSortable(document.getElementById("systems"));
  draw();
  dark.addEventListener("change", draw);
})();
