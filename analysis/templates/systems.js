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

  // Numbers sort as numbers, text as text; what is missing stays last whichever way.
  function sortBy(heading) {
    const column = [...heading.parentElement.children].indexOf(heading);
    const turned = { none: heading.dataset.first, ascending: "descending", descending: "ascending" };
    const order = turned[heading.getAttribute("aria-sort")];
    const numeric = !heading.classList.contains("text");
    const body = heading.closest("table").tBodies[0];
    const keyed = [...body.rows].map((row) => [row.children[column].dataset.key, row]);
    const missing = keyed.filter(([key]) => key === "");
    const known = keyed.filter(([key]) => key !== "");
    known.sort(([a], [b]) => (order === "ascending" ? 1 : -1) * (numeric ? Number(a) - Number(b) : a.localeCompare(b, "en")));
    body.append(...[...known, ...missing].map(([, row]) => row));
    for (const other of heading.parentElement.children) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", order);
  }

  for (const heading of document.querySelectorAll("#systems thead th")) {
    heading.querySelector("button").addEventListener("click", () => sortBy(heading));
  }
  draw();
  dark.addEventListener("change", draw);
})();
