// The charts: Vega-Lite, drawn one by one while the page is idle, asked by hovering and clicking.
"use strict";

const Charts = (function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const hidden = new Set();
  const cards = [];
  let queue = [];
  let isDrawing = false;
  let onOpen = () => {};

  function element(tag, parent, text, kind) {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    if (kind) made.className = kind;
    if (parent) parent.append(made);
    return made;
  }

  // --- what a chart looks like -----------------------------------------------------------------
  function lighter(colour) {
    const part = (at) => parseInt(colour.slice(at, at + 2), 16);
    const mixed = [1, 3, 5].map((at) => Math.round(part(at) * 0.62 + 255 * 0.38));
    return `#${mixed.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
  }

  // a copy of a specification whose colours can be seen on the page's background
  function suited(value) {
    if (typeof value === "string") {
      const isColour = dark.matches && /^#[0-9a-f]{6}$/i.test(value);
      return isColour ? lighter(value) : value;
    }
    if (Array.isArray(value)) return value.map(suited);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, suited(inner)]));
  }

  function config() {
    const ink = dark.matches ? "#dddddd" : "#222222";
    const faint = dark.matches ? "#3a3f47" : "#e4e4e4";
    return {
      background: null,
      font: "system-ui, sans-serif",
      view: { stroke: null },
      axis: {
        labelColor: ink, titleColor: ink, gridColor: faint, domainColor: ink, tickColor: ink,
        titleFontWeight: "normal",
      },
      legend: { labelColor: ink, titleColor: ink },
      rule: { color: ink },
      text: { color: ink },
      line: { cursor: "pointer" }, bar: { cursor: "pointer" }, point: { cursor: "pointer" },
    };
  }

  // --- a card: the chart, its table, its files -------------------------------------------------
  function card(chart, entry, number, parent) {
    const figure = element("figure", parent, null, "chart");
    figure.dataset.entry = number;
    figure.dataset.chart = chart.name;
    element("figcaption", figure, entry.title);
    const place = element("div", figure, null, "place");
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", `${chart.heading}, ${entry.title}: ${chart.text}`);
    const made = { chart, entry, number, figure, place, view: null };
    const tools = element("div", figure, null, "tools");
    const details = element("details", tools);
    element("summary", details, "as a table");
    table(chart, element("div", details, null, "scroll"));
    const name = `${chart.name}-${number}`;
    button(tools, "SVG", async () => save(`${name}.svg`, "image/svg+xml", await made.view.toSVG()));
    button(tools, "CSV", () => save(`${name}.csv`, "text/csv", csv(chart)));
    cards.push(made);
  }

  function button(parent, text, work) {
    const made = element("button", parent, text);
    made.addEventListener("click", work);
  }

  function table(chart, parent) {
    const made = element("table", parent);
    const head = element("tr", element("thead", made));
    for (const [, title] of chart.columns) element("th", head, title);
    const body = element("tbody", made);
    for (const row of chart.rows) {
      const line = element("tr", body);
      for (const [field, , format] of chart.columns) element("td", line, shown(row[field], format));
    }
  }

  function shown(value, format) {
    if (value === null || value === undefined || value === "") return "-";
    if (!format) return String(value);
    const digits = Number(format.match(/\d/)?.[0] ?? 2);
    return format.endsWith("%") ? `${(100 * value).toFixed(digits)} %` : value.toFixed(digits);
  }

  function csv(chart) {
    const quoted = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
    const lines = [chart.columns.map(([, title]) => quoted(title))];
    for (const row of chart.rows) lines.push(chart.columns.map(([field]) => quoted(row[field])));
    return lines.map((cells) => cells.join(",")).join("\r\n") + "\r\n";
  }

  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // --- drawing ---------------------------------------------------------------------------------
  async function draw(made) {
    made.view?.finalize();
    const spec = suited({ ...made.chart.spec, data: { values: made.chart.rows } });
    const options = { mode: "vega-lite", actions: false, renderer: "svg", config: config() };
    options.tooltip = { theme: dark.matches ? "dark" : "light" };
    const { view } = await vegaEmbed(made.place, spec, options);
    made.view = view;
    if (hidden.size) await view.signal("hidden", [...hidden]).runAsync();
    view.addEventListener("click", (event, item) => {
      const row = item?.datum;
      const isOfRows = made.chart.rows.some((known) => row && known.method === row.method);
      if (!isOfRows) return;
      const isLine = item.mark.marktype === "line"; // its datum is its first point
      onOpen(made.entry.title, isLine ? { method: row.method } : row);
    });
  }

  async function work() {
    if (isDrawing) return;
    isDrawing = true;
    while (queue.length) {
      const visible = queue.findIndex((made) => !made.figure.hidden);
      if (visible < 0) break;
      const [made] = queue.splice(visible, 1);
      await draw(made);
      await new Promise((resume) => setTimeout(resume));
    }
    isDrawing = false;
    document.documentElement.dataset.charts = "drawn";
  }

  function drawAll() {
    delete document.documentElement.dataset.charts;
    queue = [...cards];
    work();
  }

  function build() {
    for (const grid of document.querySelectorAll(".charts")) {
      const kinds = new Map();
      data.entries.forEach((entry, number) => {
        for (const chart of entry.charts.filter((chart) => chart.topic === grid.dataset.topic)) {
          if (!kinds.has(chart.name)) kinds.set(chart.name, []);
          kinds.get(chart.name).push([chart, entry, number]);
        }
      });
      for (const [name, found] of kinds) {
        const group = element("div", grid, null, found.length > 1 ? "kind wide" : "kind");
        group.id = `figure-${name}`;
        element("h3", group, found[0][0].heading);
        element("p", group, found[0][0].text);
        const row = element("div", group, null, "row");
        for (const [chart, entry, number] of found) card(chart, entry, number, row);
      }
    }
    dark.addEventListener("change", drawAll);
    drawAll();
  }

  return {
    data,
    element,
    hidden,
    build,
    work,
    lighter: (colour) => (dark.matches ? lighter(colour) : colour),
    onDark: (react) => dark.addEventListener("change", react),
    open: (react) => { onOpen = react; },
    hide() {
      for (const made of cards) made.view?.signal("hidden", [...hidden]).runAsync();
    },
  };
})();
