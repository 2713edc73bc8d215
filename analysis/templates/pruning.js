(() => {
  const page = JSON.parse(document.getElementById("report-data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const coloured = inColours(dark, page.dark);
  const byId = (id) => document.getElementById(id);
  const { ladders, paths, widths, first } = page.pruning;

  // `key` says whose figure it is: zoom and hidden traces survive a change of theme, not of the network shown.
  function show(id, key, figure) {
    const place = byId(id);
    const none = byId(`${id}-none`);
    place.hidden = !figure;
    if (none) none.hidden = Boolean(figure);
    if (!figure) return;
    const layout = coloured({ ...figure.layout, uirevision: `${id} ${key}` });
    Plotly.react(place, coloured(figure.data), layout, { responsive: true, displayModeBar: false });
  }

  // A menu is there only where there is something to choose.
  const chosen = (menu, only) => (byId(menu) ? byId(menu).value : only);

  function drawLadder() {
    const key = chosen("ladder-parent", Object.keys(ladders)[0]);
    if (byId("ladder")) show("ladder", key, ladders[key]);
  }

  function drawChild() {
    if (!byId("path")) return;
    const key = chosen("pruned-child", first);
    show("path", key, paths[key]);
    show("widths", key, widths[key]);
    byId("widths").parentElement.scrollTop = 0;
  }

  function draw() {
    drawLadder();
    drawChild();
  }

  function watch() {
    byId("ladder-parent")?.addEventListener("change", drawLadder);
    const menu = byId("pruned-child");
    menu?.addEventListener("change", drawChild);
    for (const row of byId("pruned").tBodies[0].rows) {
      row.addEventListener("click", () => {
        if (!menu || ![...menu.options].some((option) => option.value === row.dataset.number)) return;
        menu.value = row.dataset.number;
        drawChild();
      });
    }
  }

  makeSortable(byId("pruned"));
  draw();
  watch();
  dark.addEventListener("change", draw);
})();
