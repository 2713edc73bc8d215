(() => {
  const page = JSON.parse(document.getElementById("report-data").textContent);
  const choices = page.front;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const coloured = inColours(dark, page.dark);
  const config = { responsive: true, displaylogo: false };
  const tools = [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]];
  const frontConfig = { ...config, modeBarButtons: tools, toImageButtonOptions: { filename: `${page.name}-front`, scale: 2 } };
  const byId = (id) => document.getElementById(id);

  // Rows are candidates (and, last, the reference network); see pareto.py, which draws the first pair in the same way.
  function rowsOf(name, pair) {
    return pair.rows[name] || choices.rows[name];
  }

  function placed(trace, name, x, y, pair) {
    const rows = rowsOf(name, pair);
    const values = (facts, list) => rows.map((row) => (row === null ? null : facts[list][row]));
    const result = { ...trace, x: values(x, "values"), y: values(y, "values") };
    for (const [key, facts] of [["error_x", x], ["error_y", y]]) {
      if (!trace[key]) continue;
      const { array, arrayminus, ...look } = trace[key];
      const arms = facts.plus.length ? { array: values(facts, "plus"), arrayminus: values(facts, "minus") } : {};
      result[key] = { ...look, ...arms };
    }
    if (name === "staircase") Object.assign(result, { line: { ...trace.line, shape: pair.shape }, showlegend: rows.length > 1 });
    if (name === "labels") Object.assign(result, {
      text: rows.map((row) => choices.labels[row]),
      textposition: pair.textposition,
      marker: { ...trace.marker, size: rows.map((row) => choices.diameters_px[row]) },
    });
    if (trace.hoverinfo === "text") result.showlegend = rows.some((_, i) => result.x[i] !== null && result.y[i] !== null);
    return result;
  }

  // The part of an axis that holds the trained candidates, with room for markers; baselines may lie outside.
  function spanOf(facts) {
    const known = choices.finished.map((row) => facts.values[row]).filter((value) => value !== null);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const room = 0.12 * (high - low) || 0.05 * Math.abs(high) || 1;
    return [low - room, high + room];
  }

  function drawFront() {
    const [xName, yName] = ["x", "y"].map((axis) => byId(`axis-${axis}`).value);
    const [x, y, pair] = [choices.axes[xName], choices.axes[yName], choices.pairs[`${xName}|${yName}`]];
    const figure = page.figures.front;
    const traces = figure.data.map((trace, i) => placed(trace, choices.traces[i], x, y, pair));
    const near = byId("near").checked;
    const settled = (axis, facts) => ({
      ...axis,
      title: { ...axis.title, text: facts.title },
      ...(near ? { range: spanOf(facts) } : { autorange: true }),
    });
    const layout = {
      ...figure.layout,
      xaxis: settled(figure.layout.xaxis, x),
      yaxis: settled(figure.layout.yaxis, y),
      shapes: [...x.lines.x.shapes, ...y.lines.y.shapes],
      annotations: [...x.lines.x.annotations, ...y.lines.y.annotations],
      uirevision: `${xName}|${yName}|${near}`, // zoom and hidden traces survive a change of theme, not of axes
    };
    const missing = [...choices.finished].filter((row) => x.values[row] === null || y.values[row] === null).length;
    byId("unplaced").textContent = missing ? `${missing} trained without one of these two numbers: not drawn.` : "";
    return Plotly.react("front", coloured(traces), coloured(layout), frontConfig);
  }

  function drawOthers() {
    for (const name of ["hypervolume", "curves", "rungs"]) {
      const figure = page.figures[name];
      if (figure) Plotly.react(name, coloured(figure.data), coloured({ ...figure.layout, uirevision: name }), { ...config, displayModeBar: false });
    }
  }

  function draw() {
    drawOthers();
    if (choices) drawFront();
  }

  // One number cannot lie on both axes: choosing the other axis' number swaps the two.
  function watchAxes() {
    const menus = { x: byId("axis-x"), y: byId("axis-y") };
    const shown = { x: menus.x.value, y: menus.y.value };
    byId("near").addEventListener("change", drawFront);
    for (const [axis, other] of [["x", "y"], ["y", "x"]]) {
      menus[axis].addEventListener("change", () => {
        if (menus[axis].value === menus[other].value) menus[other].value = shown[axis];
        Object.assign(shown, { x: menus.x.value, y: menus.y.value });
        drawFront();
      });
    }
  }

  // A row under the pointer or with the focus has a ring in the front; a marker clicked finds its row.
  function ring(number) {
    const row = choices.numbers.indexOf(number);
    const place = choices.traces.indexOf("selection");
    const [x, y] = ["x", "y"].map((axis) => choices.axes[byId(`axis-${axis}`).value].values[row]);
    const drawn = row >= 0 && x !== null && y !== null;
    const size = [drawn ? choices.diameters_px[row] + 12 : 0];
    Plotly.restyle("front", { x: [drawn ? [x] : []], y: [drawn ? [y] : []], "marker.size": [size] }, [place]);
  }

  function select(row) {
    for (const other of document.querySelectorAll("#candidates tr.selected")) other.classList.remove("selected");
    if (row) row.classList.add("selected");
  }

  function joinFrontAndTable() {
    for (const row of document.querySelectorAll("#candidates tbody tr")) {
      const number = Number(row.dataset.number);
      row.addEventListener("pointerenter", () => ring(number));
      row.addEventListener("focusin", () => ring(number));
      row.addEventListener("click", () => select(row));
    }
    byId("candidates").tBodies[0].addEventListener("pointerleave", () => {
      const selected = document.querySelector("#candidates tr.selected");
      ring(selected ? Number(selected.dataset.number) : -1);
    });
    byId("front").on("plotly_click", (event) => {
      const { curveNumber, pointNumber } = event.points[0];
      const pair = choices.pairs[`${byId("axis-x").value}|${byId("axis-y").value}`];
      const number = choices.numbers[rowsOf(choices.traces[curveNumber], pair)[pointNumber]];
      const row = byId(`candidate-${number}`);
      if (!row) return;
      select(row);
      ring(number);
      row.scrollIntoView({ block: "center" });
    });
  }

  makeSortable(byId("candidates"));
  draw();
  if (choices) {
    watchAxes();
    joinFrontAndTable();
  }
  dark.addEventListener("change", draw);
})();
