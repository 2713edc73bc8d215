(() => {
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
})();
