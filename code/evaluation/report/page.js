// The page as a whole: which settings are shown, which methods, and two settings side by side.
"use strict";

(function () {
  const { data, element, hidden } = Charts;
  const $ = (id) => document.getElementById(id);

  // --- the chooser -----------------------------------------------------------------------------
  const chosen = {};

  function chooser() {
    for (const facet of data.facets) {
      const values = [...new Set(data.entries.map((entry) => entry.facets[facet]))].filter(Boolean);
      if (values.length < 2) continue;
      const label = element("label", $("chooser"), `${facet} `);
      const select = element("select", label);
      select.dataset.facet = facet;
      for (const value of ["all", ...values.sort()]) select.append(new Option(value, value));
      select.addEventListener("change", () => {
        chosen[facet] = select.value;
        choose();
      });
    }
  }

  function isChosen(entry) {
    return Object.entries(chosen).every(([facet, value]) => {
      const own = entry.facets[facet];
      return value === "all" || !own || own === value;
    });
  }

  function choose() {
    const shown = data.entries.map(isChosen);
    for (const part of document.querySelectorAll("[data-entry]")) {
      part.hidden = !shown[Number(part.dataset.entry)];
    }
    for (const kind of document.querySelectorAll(".kind")) {
      kind.hidden = !kind.querySelector("figure:not([hidden])");
    }
    const left = data.entries.filter((entry, at) => shown[at]);
    Viewer.limit(left.map((entry) => entry.title));
    Charts.work();
    window.dispatchEvent(new Event("resize")); // those that are left have more room
  }

  // --- the legend ------------------------------------------------------------------------------
  function legend() {
    $("legend-of-methods").replaceChildren();
    for (const method of data.methods) {
      const chip = element("button", $("legend-of-methods"), null, "chip");
      const mark = element("span", chip, method.glyph);
      mark.style.color = Charts.lighter(method.colour);
      chip.append(` ${method.name}`);
      chip.setAttribute("aria-pressed", String(!hidden.has(method.name)));
      chip.title = "show or hide it in every chart";
      chip.addEventListener("click", () => {
        if (!hidden.delete(method.name)) hidden.add(method.name);
        chip.setAttribute("aria-pressed", String(!hidden.has(method.name)));
        Charts.hide();
      });
    }
  }

  // --- all methods of several machines or models -----------------------------------------------
  function rank() {
    const answered = data.entries.filter((entry) => entry.answer);
    const machines = new Set(answered.map((e) => `${e.facets.model}|${e.facets.machine}`));
    if (machines.size < 2) return;
    $("ranking").hidden = false;
    const rows = [];
    data.entries.forEach((entry, at) => {
      for (const row of entry.answer?.rows ?? []) {
        if (row.ratio !== null && row.method !== "vanilla") rows.push({ row, entry, at });
      }
    });
    rows.sort((a, b) => b.row.ratio - a.row.ratio);
    const body = $("ranking").querySelector("tbody");
    for (const { row, entry, at } of rows) {
      const line = element("tr", body);
      line.dataset.entry = at;
      const cells = [
        row.method, interval(row), row.verdict || "-", row.texts || "-", number(row.mat),
        number(row.tokens_per_second, 1), [entry.title, entry.facets.machine].join(", "),
      ];
      for (const cell of cells) element("td", line, cell);
    }
  }

  // --- two settings side by side ---------------------------------------------------------------
  const number = (value, digits = 2) => value?.toFixed(digits) ?? "-";
  const ratio = (a, b) => (a && b ? `${number(b / a)}x` : "-");

  function interval(row) {
    if (!row || row.ratio === null) return "-";
    if (row.low === null) return number(row.ratio);
    return `${number(row.ratio)} [${number(row.low)}, ${number(row.high)}]`;
  }

  function judged(a, b) {
    if (!a || !b || a.low === null || b.low === null) return "-";
    if (a.method === "vanilla") return "-";
    if (b.low > a.high) return "larger in b";
    return b.high < a.low ? "smaller in b" : "intervals overlap";
  }

  function differ() {
    const [a, b] = ["first", "second"].map((id) => data.entries[Number($(id).value)]);
    const place = $("differences");
    place.replaceChildren();
    const other = data.facets.filter((facet) => a.facets[facet] !== b.facets[facet]);
    const both = (facet) => `${facet}: ${a.facets[facet] || "-"} / ${b.facets[facet] || "-"}`;
    const told = other.length
      ? `They differ in ${other.map(both).join("; ")}.`
      : "They are of one model, machine and setting.";
    element("p", place, told);
    const table = element("table", element("div", place, null, "scroll"));
    const head = element("tr", element("thead", table));
    const names = [
      "method", "speed-up a [95 %]", "speed-up b", "b / a", "its speed-up is",
      "tokens/s a", "tokens/s b", "b / a", "MAT a", "MAT b",
    ];
    for (const name of names) element("th", head, name);
    const body = element("tbody", table);
    for (const { name } of data.methods) {
      const [x, y] = [a, b].map((entry) => entry.answer.rows.find((row) => row.method === name));
      if (!x && !y) continue;
      const line = element("tr", body);
      const cells = [
        name, interval(x), interval(y), ratio(x?.ratio, y?.ratio), judged(x, y),
        number(x?.tokens_per_second, 1), number(y?.tokens_per_second, 1),
        ratio(x?.tokens_per_second, y?.tokens_per_second), number(x?.mat), number(y?.mat),
      ];
      for (const cell of cells) element("td", line, cell);
    }
  }

  function difference() {
    const numbered = data.entries.map((entry, at) => [entry, at]);
    const answered = numbered.filter(([entry]) => entry.answer);
    if (answered.length < 2) return;
    $("difference").hidden = false;
    ["first", "second"].forEach((id, at) => {
      for (const [entry, number] of answered) $(id).append(new Option(entry.title, number));
      $(id).value = answered[at][1];
      $(id).addEventListener("change", differ);
    });
    differ();
  }

  Charts.open(Viewer.open);
  Charts.onDark(legend);
  chooser();
  legend();
  rank();
  difference();
  Charts.build();
})();
