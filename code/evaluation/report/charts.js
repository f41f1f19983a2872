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
  function suited(value, isDark) {
    if (typeof value === "string") {
      const isColour = isDark && /^#[0-9a-f]{6}$/i.test(value);
      return isColour ? lighter(value) : value;
    }
    if (Array.isArray(value)) return value.map((inner) => suited(inner, isDark));
    if (value === null || typeof value !== "object") return value;
    const pairs = Object.entries(value).map(([key, inner]) => [key, suited(inner, isDark)]);
    return Object.fromEntries(pairs);
  }

  function config(isDark) {
    const ink = isDark ? "#dddddd" : "#222222";
    const faint = isDark ? "#3a3f47" : "#e4e4e4";
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
    table(chart, entry, element("div", details, null, "scroll"));
    const name = `${chart.name}-${number}`;
    button(tools, "SVG", async () => save(`${name}.svg`, "image/svg+xml", await svg(made)));
    button(tools, "CSV", () => save(`${name}.csv`, "text/csv", csv(chart)));
    cards.push(made);
  }

  function button(parent, text, work) {
    const made = element("button", parent, text);
    made.addEventListener("click", work);
  }

  // the chart for who cannot see or point at it: its rows lead to the texts too
  function table(chart, entry, parent) {
    const made = element("table", parent);
    const head = element("tr", element("thead", made));
    for (const [, title] of [...chart.columns, ["", "generations"]]) element("th", head, title);
    const body = element("tbody", made);
    for (const row of chart.rows) {
      const line = element("tr", body);
      line.dataset.method = row.method ?? "";
      for (const [field, , format] of chart.columns) element("td", line, shown(row[field], format));
      button(element("td", line), "show", () => onOpen(entry.title, row));
    }
  }

  function shown(value, format) {
    if (value === null || value === undefined || value === "") return "-";
    if (!format) return String(value);
    if (typeof value !== "number") return String(value);
    const digits = Number(format.match(/\d/)?.[0] ?? 2);
    return format.endsWith("%") ? `${(100 * value).toFixed(digits)} %` : value.toFixed(digits);
  }

  function csv(chart) {
    const quoted = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
    const lines = [chart.columns.map(([, title]) => quoted(title))];
    for (const row of chart.rows) {
      if (!hidden.has(row.method)) lines.push(chart.columns.map(([field]) => quoted(row[field])));
    }
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
  function embed(place, chart, isDark, more = {}) {
    const spec = suited({ ...chart.spec, ...more, data: { values: chart.rows } }, isDark);
    const options = { mode: "vega-lite", actions: false, renderer: "svg", config: config(isDark) };
    options.tooltip = { theme: isDark ? "dark" : "light" };
    return vegaEmbed(place, spec, options);
  }

  // a file is looked at on white, whatever the page is like
  async function svg(made) {
    const { view } = await embed(document.createElement("div"), made.chart, false, {
      width: made.place.clientWidth,
    });
    await view.signal("hidden", [...hidden]).runAsync();
    const text = await view.toSVG();
    view.finalize();
    return text;
  }

  async function draw(made) {
    made.view?.finalize();
    const { view } = await embed(made.place, made.chart, dark.matches);
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
      try {
        await draw(made);
      } catch (error) {
        made.place.textContent = `this chart cannot be drawn: ${error.message}`;
      }
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
      for (const line of document.querySelectorAll(".tools tr[data-method]")) {
        line.hidden = hidden.has(line.dataset.method);
      }
    },
  };
})();
