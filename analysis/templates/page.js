"use strict";
// What the pages share.

// Figures come in their light colours; on dark paper each is swapped for its partner.
function inColours(dark, partners) {
  return function coloured(value) {
    if (typeof value === "string") return (dark.matches && partners[value]) || value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, coloured(inner)]));
    }
    return value;
  };
}

// Sorts a table by a click on one of its headings. Numbers sort as numbers, text as text; what is missing stays last
// whichever way. The first click puts the better end on top, the second turns it round.
function makeSortable(table) {
  function sortBy(heading) {
    const column = [...heading.parentElement.children].indexOf(heading);
    const turned = { none: heading.dataset.first, ascending: "descending", descending: "ascending" };
    const order = turned[heading.getAttribute("aria-sort")];
    const numeric = !heading.classList.contains("text");
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => [row.children[column].dataset.key, row]);
    const missing = keyed.filter(([key]) => key === "");
    const known = keyed.filter(([key]) => key !== "");
    known.sort(([a], [b]) => (order === "ascending" ? 1 : -1) * (numeric ? Number(a) - Number(b) : a.localeCompare(b, "en")));
    body.append(...[...known, ...missing].map(([, row]) => row));
    for (const other of heading.parentElement.children) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", order);
  }

  for (const heading of table.querySelectorAll("thead th")) {
    heading.querySelector("button").addEventListener("click", () => sortBy(heading));
  }
}

// Draws a page's figures, each into the element of its name, and again when the theme changes.
function drawFigures() {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const coloured = inColours(dark, page.dark);

  function draw() {
    for (const [name, figure] of Object.entries(page.figures)) {
      const layout = coloured({ ...figure.layout, uirevision: name });
      Plotly.react(name, coloured(figure.data), layout, { responsive: true, displayModeBar: false });
    }
  }

  draw();
  dark.addEventListener("change", draw);
}
