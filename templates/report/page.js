"use strict";
(() => {
  // The page's data: `texts[columns[NAME][ROW]]` is a cell, `run[ROW]` the number of the row's run.
  const data = JSON.parse(document.getElementById("data").textContent);
  const cell = (name, row) => (data.columns[name] ? data.texts[data.columns[name][row]] : "");
  const byId = (id) => document.getElementById(id);

  // Everything from the results becomes text of a node, never markup.
  function element(tag, properties = {}, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  }

  function asNumber(text) {
    const value = text === "" ? NaN : Number(text);
    return Number.isFinite(value) ? value : null;
  }

  // Numbers by value, then texts as people sort them; what is empty comes last in any direction.
  const collator = new Intl.Collator("en", { numeric: true });
  function compare(left, right, direction) {
    if (left === "" || right === "") return (left === "") - (right === "");
    const [a, b] = [asNumber(left), asNumber(right)];
    if (a !== null && b !== null) return direction * (a - b);
    if (a !== null || b !== null) return direction * (a === null ? 1 : -1);
    return direction * collator.compare(left, right);
  }

  function nextDirection(header) {
    const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
    return direction;
  }

  function onActivate(node, action) {
    node.tabIndex = 0;
    node.addEventListener("click", action);
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter") action(event);
    });
  }

  // --- tables that are in the page ---

  const tables = [...document.querySelectorAll("table.sortable")];
  for (const table of tables) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      onActivate(header, () => {
        const direction = nextDirection(header);
        const value = (line) => line.cells[column].dataset.value ?? line.cells[column].textContent.trim();
        const lines = [...table.tBodies[0].rows].map((line) => [value(line), line]);
        lines.sort((left, right) => compare(left[0], right[0], direction));
        table.tBodies[0].append(...lines.map((pair) => pair[1]));
      });
    });
  }

  for (const node of document.querySelectorAll(".interval")) {
    const { low, high, mid } = node.dataset;
    const limit = Math.max(10, ...[...document.querySelectorAll(".interval")].flatMap((one) => [one.dataset.low, one.dataset.high].map((text) => Math.min(60, Math.abs(text)))));
    const place = (text) => 50 + 50 * Math.max(-1, Math.min(1, Number(text) / limit));
    const line = element("i");
    line.style.left = `${place(low)}%`;
    line.style.width = `${place(high) - place(low)}%`;
    const point = element("b");
    point.style.left = `${place(mid)}%`;
    node.append(line, point);
  }

  // --- all results ---

  const SHOWN = ["started", "model", "variant", "machine_name", "gpu_architecture", "n_gpus", "metric", "performance", "status", "reason", "run_duration", "peak_gpu_memory_mib", "energy_j", "mean_gpu_utilization", "contaminated", "repeat", "side"].filter((name) => data.columns[name]);
  const TITLES = { machine_name: "host", gpu_architecture: "GPU", n_gpus: "GPUs", run_duration: "seconds", peak_gpu_memory_mib: "peak MiB", energy_j: "energy J", mean_gpu_utilization: "util. %" };
  const NUMBERS = new Set(["performance", "run_duration", "peak_gpu_memory_mib", "energy_j", "mean_gpu_utilization", "n_gpus"]);
  const STEP = 100;
  const state = { rows: [], order: Array.from({ length: data.count }, (_, row) => data.count - 1 - row), limit: STEP, open: -1 };
  const body = byId("rows").tBodies[0];
  let searched = null;

  function textOf(row) {
    searched ??= state.order.slice().sort((a, b) => a - b).map((each) => SHOWN.map((name) => cell(name, each)).join("\n").toLowerCase());
    return searched[row];
  }

  const filterWords = () => byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);

  function filterRows() {
    const words = filterWords();
    const [status, metric] = [byId("status").value, byId("metric").value];
    state.rows = state.order.filter((row) =>
      (!status || cell("status", row) === status) && (!metric || `=${cell("metric", row)}` === metric) &&
      words.every((word) => textOf(row).includes(word)));
    state.limit = STEP;
    drawRows();
    for (const table of tables.filter((one) => !one.closest("#overview"))) {
      for (const line of table.tBodies[0].rows) {
        const text = words.length ? line.textContent.toLowerCase() : "";
        const about = (data.metrics[table.closest(".metric")?.dataset.number] ?? "").toLowerCase();
        line.hidden = !words.every((word) => text.includes(word) || about.includes(word));
      }
      const metric = table.closest(".metric");
      if (metric) metric.hidden = words.length > 0 && ![...table.tBodies[0].rows].some((line) => !line.hidden);
      if (metric && charts.has(metric.querySelector(".history"))) drawHistory(metric);
    }
  }

  function drawRows() {
    body.replaceChildren(...state.rows.slice(0, state.limit).map(line));
    byId("more").hidden = state.limit >= state.rows.length;
    byId("shown").textContent = `${Math.min(state.limit, state.rows.length)} of ${state.rows.length}` + (state.rows.length < data.count ? ` (${data.count} in all)` : "");
  }

  function line(row) {
    const cells = SHOWN.map((name) => {
      const text = cell(name, row);
      const shown = name === "started" ? text.replace("T", " ").replace("Z", "") : name === "status" ? element("span", { className: `badge ${text}` }, text) : text.slice(0, 300);
      return element("td", { className: NUMBERS.has(name) ? "number" : "", title: text.length > 24 ? text.slice(0, 2000) : "" }, shown);
    });
    const node = element("tr", { className: row === state.open ? "open" : "" }, ...cells);
    onActivate(node, () => openRun(row));
    node.dataset.row = row;
    return node;
  }

  byId("rows").tHead.append(element("tr", {}, ...SHOWN.map((name) => {
    const header = element("th", { className: NUMBERS.has(name) ? "number" : "" }, TITLES[name] ?? name);
    if (name === "started") header.setAttribute("aria-sort", "descending");
    onActivate(header, () => {
      const direction = nextDirection(header);
      state.order.sort((left, right) => compare(cell(name, left), cell(name, right), direction) || left - right);
      filterRows();
    });
    return header;
  })));
  for (const name of ["status", "metric"]) {
    const values = [...new Set(data.columns[name])].map((number) => data.texts[number]).sort(collator.compare);
    byId(name).append(...values.slice(0, 500).map((text) => element("option", { value: name === "metric" ? `=${text}` : text }, text.slice(0, 100) || "none")));
    byId(name).addEventListener("change", filterRows);
  }
  let pending = 0;
  byId("filter").addEventListener("input", () => {
    clearTimeout(pending);
    pending = setTimeout(filterRows, 120);
  });
  byId("more").addEventListener("click", () => {
    state.limit += 5 * STEP;
    drawRows();
  });

  // --- charts ---

  // The chart library, from beside the page or out of it; it is read once, after the page has been shown.
  let loading = null;
  const library = () => (loading ??= new Promise((resolve, reject) => {
    const inside = byId("library");
    const script = element("script");
    if (inside) {
      script.textContent = inside.textContent;
      document.head.append(script);
      resolve();
    } else {
      script.src = document.documentElement.dataset.library;
      script.addEventListener("load", resolve);
      script.addEventListener("error", () => reject(new Error(`${script.src} is missing: copy it together with the page`)));
      document.head.append(script);
    }
  }));

  // Okabe and Ito's colours without yellow, and a dash and a marker for each round, so that no two lines are alike.
  const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const MARKERS = ["circle", "square", "diamond", "cross", "triangle-up", "x", "star"];
  const LEGEND = { orientation: "h", yref: "container", y: 0, yanchor: "bottom" };
  const MOST_LINES = 2 * COLOURS.length;
  const charts = new Set();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // The chart library reads some markup in names.
  const plain = (text, length = 60) => (text.length > length ? `${text.slice(0, length - 1)}…` : text).replace(/[&<>]/g, (sign) => `&#${sign.charCodeAt(0)};`);

  function colours() {
    const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"), tickcolor: colour("--line") };
    return { axis, layout: { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--text"), family: "system-ui, sans-serif", size: 12 }, hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--text") }, namelength: 60 }, modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--muted"), activecolor: colour("--accent") } } };
  }

  function draw(node, traces, layout) {
    const { axis, layout: base } = colours();
    const axes = Object.fromEntries(Object.keys(layout).filter((name) => /^[xy]axis/.test(name)).map((name) => [name, { ...axis, ...layout[name] }]));
    node.style.height = `${layout.height}px`;
    charts.add(node);
    const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"], showSendToCloud: false };
    return Plotly.newPlot(node, traces, { ...base, ...layout, ...axes }, config);
  }

  function recolour() {
    const { axis, layout } = colours();
    for (const node of charts) {
      if (!node.isConnected) charts.delete(node);
      else {
        const names = Object.keys(node.layout).filter((name) => /^[xy]axis/.test(name));
        const changes = Object.entries(layout).flatMap(([name, value]) => (typeof value === "object" ? Object.entries(value).map(([part, one]) => [`${name}.${part}`, one]) : [[name, value]]));
        Plotly.relayout(node, Object.fromEntries([...changes, ...names.flatMap((name) => Object.entries(axis).map(([part, one]) => [`${name}.${part}`, one]))].filter(([, one]) => typeof one !== "object")));
      }
    }
  }

  function historyTrace(one, number, isRelative) {
    const rows = one.r.slice().sort((a, b) => collator.compare(cell("started", a), cell("started", b)));
    const values = rows.map((row) => Number(cell("performance", row)));
    const style = { color: COLOURS[number % COLOURS.length], dash: DASHES[Math.floor(number / COLOURS.length) % DASHES.length], width: 1.8 };
    return {
      name: plain(one.name), x: rows.map((row) => cell("started", row)), y: isRelative ? values.map((value) => (100 * value) / values[0]) : values, customdata: rows,
      mode: rows.length > 300 ? "lines" : "lines+markers", type: "scatter", line: style, marker: { symbol: MARKERS[number % MARKERS.length], size: 6 },
    };
  }

  function drawHistory(article) {
    const { number } = article.dataset;
    const metric = data.metrics[number];
    const words = filterWords();
    const every = data.history[number].filter((one) => words.every((word) => `${one.name}\n${metric}`.toLowerCase().includes(word)));
    const lines = every.slice(0, MOST_LINES);
    const [node, button, note] = [".history", ".relative", ".legend"].map((name) => article.querySelector(name));
    for (const part of [node, button]) part.hidden = !lines.length;
    note.hidden = every.length <= lines.length;
    note.textContent = `the ${lines.length} longest of ${every.length} lines; the filter above chooses others`;
    if (!lines.length) return;
    const isRelative = button.getAttribute("aria-pressed") === "true";
    const layout = {
      margin: { l: 70, r: 20, t: 34, b: 60 + 20 * Math.ceil(lines.length / 3) }, height: 330 + 20 * Math.ceil(lines.length / 3), xaxis: { type: "date" }, showlegend: true,
      yaxis: { title: { text: isRelative ? "% of first" : plain(metric) }, automargin: true }, legend: LEGEND,
    };
    const traces = lines.map((one, number) => historyTrace(one, number, isRelative));
    // Where a line changes, beside its first value after the change.
    layout.annotations = lines.flatMap((one, number) => (one.changes ?? []).map((change) => {
      const place = traces[number].customdata.indexOf(change.row);
      return { x: traces[number].x[place], y: traces[number].y[place], text: plain(change.text, 30), ax: 0, ay: number % 2 ? 30 : -30, arrowhead: 2, arrowsize: 0.8, arrowcolor: traces[number].line.color, font: { size: 11 } };
    }));
    draw(node, traces, layout).then(() => {
      node.removeAllListeners("plotly_click");
      node.on("plotly_click", (event) => openRun(event.points[0].customdata));
    });
  }

  // --- a run ---

  // A machine has several GPUs of one kind.
  function shortened(value) {
    if (typeof value !== "object" || value === null) return String(value);
    if (!Array.isArray(value)) return Object.entries(value).filter(([, one]) => one !== null && one !== "").map(([name, one]) => `${name} ${shortened(one)}`).join(", ");
    const counts = new Map();
    for (const one of value.map(shortened)) counts.set(one, (counts.get(one) ?? 0) + 1);
    return [...counts].map(([text, count]) => (count > 1 ? `${count} × ${text}` : text)).join("\n");
  }

  function facts(pairs) {
    const list = element("dl");
    for (const [name, value] of pairs) {
      const text = shortened(value);
      list.append(element("dt", {}, name), element("dd", { className: text.length > 400 ? "wide" : "" }, text));
    }
    return list;
  }

  function drawGpus(node, series) {
    const quantities = [["memory_used_mib", "Memory MiB"], ["power_w", "Power W"], ["utilization_percent", "Util. %"], ["temperature_c", "Temp. °C"]]
      .filter(([name]) => series.gpus.some((gpu) => gpu[name].some((value) => value !== null)));
    const gap = 0.045;
    const height = (1 - gap * (quantities.length - 1)) / quantities.length;
    const layout = { height: 140 * quantities.length + 80 + 20 * Math.ceil(series.gpus.length / 8), margin: { l: 75, r: 20, t: 34, b: 60 + 20 * Math.ceil(series.gpus.length / 8) }, hovermode: "x", legend: LEGEND, xaxis: { title: { text: "seconds" }, anchor: `y${quantities.length > 1 ? quantities.length : ""}` }, showlegend: true };
    const traces = quantities.flatMap(([name, title], row) => {
      const axis = row ? `y${row + 1}` : "y";
      layout[row ? `yaxis${row + 1}` : "yaxis"] = { title: { text: title, standoff: 5 }, domain: [1 - (row + 1) * height - row * gap, 1 - row * (height + gap)], automargin: true, rangemode: "tozero" };
      return series.gpus.map((gpu, number) => ({
        name: `GPU ${plain(gpu.gpu)}`, legendgroup: gpu.gpu, showlegend: row === 0, x: gpu.t, y: gpu[name], yaxis: axis, mode: "lines", type: "scatter",
        line: { width: 1.4, color: COLOURS[number % COLOURS.length], dash: DASHES[Math.floor(number / COLOURS.length) % DASHES.length] },
      }));
    });
    layout.shapes = series.throttled.slice(0, 500).map(([from, to]) => ({ type: "rect", x0: from, x1: Math.max(to, from + 0.5), yref: "paper", y0: 0, y1: 1, line: { width: 0 }, fillcolor: "#d55e00", opacity: 0.18, layer: "below" }));
    return draw(node, traces, layout);
  }

  function openRun(row) {
    state.open = row;
    for (const other of body.rows) other.classList.toggle("open", Number(other.dataset.row) === row);
    const number = data.run[row];
    const source = number < 0 ? null : byId(`run-${number}`);
    const run = source ? JSON.parse(source.textContent) : {};
    const status = cell("status", row);
    const details = byId("details");
    const name = [cell("model", row), cell("variant", row)].filter(Boolean).join(" ");
    details.replaceChildren(
      element("h2", {}, name.slice(0, 500), " ", element("span", { className: `badge ${status}` }, status)),
      element("p", { className: "muted names" }, `${cell("machine_name", row)} · ${cell("started", row)} · ${cell("run_id", row)}`.slice(0, 500)));
    if (cell("reason", row)) details.append(element("p", { className: "reason" }, `${cell("cause", row)}: `.replace(/^: /, ""), cell("reason", row)));
    if (cell("performance", row)) details.append(element("p", {}, element("strong", {}, cell("performance", row)), ` ${cell("metric", row)}`));
    if (run.charts) {
      const chart = element("div", { className: "chart" });
      const notes = [run.charts.throttled.length ? "shaded: throttled" : "", run.charts.every > 1 ? `1 of ${run.charts.every} samples` : "", "drag to zoom, double-click to reset"];
      details.append(element("h3", {}, "GPUs ", element("span", { className: "muted" }, notes.filter(Boolean).join(" · "))), chart);
      library().then(() => drawGpus(chart, run.charts));
    }
    const links = Object.entries(run.links ?? {});
    if (links.length) details.append(element("h3", {}, "Files"), element("ul", {}, ...links.map(([title, link]) => element("li", {}, element("a", { href: link }, title)))));
    const log = element("pre", {}, run.log ?? "");
    if (run.log) details.append(element("h3", {}, "End of the log"), log);
    const machine = data.environments[data.environment[row]];
    if (machine) details.append(element("h3", {}, "Environment"), facts(Object.entries(machine)));
    const cells = Object.keys(data.columns).map((column) => [column, cell(column, row)]).filter(([column, text]) => text && column !== "cause");
    details.append(element("h3", {}, "Row"), facts(cells));
    byId("run").hidden = false;
    byId("run").scrollTop = 0;
    log.scrollTop = log.scrollHeight;
    byId("close").focus();
  }

  function closeRun() {
    byId("run").hidden = true;
    state.open = -1;
    for (const other of body.rows) other.classList.remove("open");
  }
  byId("close").addEventListener("click", closeRun);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") closeRun();
  });

  // --- light and dark ---

  const THEMES = ["", "light", "dark"];
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    root.dataset.theme = THEMES[(THEMES.indexOf(root.dataset.theme ?? "") + 1) % THEMES.length];
    recolour();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  // Paper is white: charts get its colours while it is printed.
  let theme = "";
  addEventListener("beforeprint", () => {
    theme = document.documentElement.dataset.theme ?? "";
    document.documentElement.dataset.theme = "light";
    recolour();
  });
  addEventListener("afterprint", () => {
    document.documentElement.dataset.theme = theme;
    recolour();
  });

  for (const button of document.querySelectorAll(".relative")) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
      drawHistory(button.closest(".metric"));
    });
  }
  filterRows();
  // Charts are drawn when they come into view: a page may have hundreds.
  addEventListener("load", () => setTimeout(() => library().then(() => {
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((one) => one.isIntersecting)) {
        observer.unobserve(entry.target);
        drawHistory(entry.target);
      }
    }, { rootMargin: "300px" });
    for (const article of document.querySelectorAll(".metric")) observer.observe(article);
  }), 50));
})();
