// The trace viewer: a text as the steps that wrote it, several methods side by side.
//
// A step is what its draft had right, coloured by who drafted, and the token that the target added.
"use strict";

const Viewer = (function () {
  const data = JSON.parse(document.getElementById("traces").textContent);
  const { element } = Charts;
  const $ = (id) => document.getElementById(id);
  const STEPS_IN_BLOCK = 80; // the browser lays out the blocks that are seen
  const MOST_STEPS_IN_BLOCK = 1000;
  const FIRST_METHODS = 3;

  let limit = null; // titles of the settings that the page shows
  let filter = {};
  let text = null;
  let step = 0;
  let columns = [];
  let chosenMethods = null;

  const tint = (source) => `${Charts.lighter(data.colours[data.sources.indexOf(source)])}66`;

  // --- which text ------------------------------------------------------------------------------
  function isListed(candidate) {
    if (candidate.setting !== $("setting").value) return false;
    const { number, category } = filter;
    if (number !== undefined && candidate.number !== number) return false;
    return category === undefined || candidate.category === category;
  }

  function listed() {
    return data.texts.map((candidate, number) => [candidate, number]).filter(([t]) => isListed(t));
  }

  function chooseSetting() {
    const found = listed();
    $("columns").replaceChildren();
    $("nothing").hidden = found.length > 0;
    const options = found.map(([candidate, number]) => new Option(candidate.title, number));
    $("text").replaceChildren(...options);
    const names = Object.entries(filter).filter(([, value]) => value !== undefined);
    $("filter").hidden = !names.length;
    $("filter").textContent = `only ${names.map(([name, value]) => `${name} ${value}`).join(", ")} ✕`;
    if (found.length) {
      chooseText();
    } else {
      text = null;
      columns = [];
      for (const id of ["methods", "legend"]) $(id).replaceChildren();
      for (const id of ["step", "matches"]) $(id).textContent = "";
    }
  }

  function chooseText() {
    text = data.texts[Number($("text").value)];
    step = 0;
    const order = Charts.data.methods.map((method) => method.name); // the page's
    const names = order.filter((name) => name in text.methods);
    const wanted = chosenMethods?.filter((name) => names.includes(name)) ?? [];
    const isNone = chosenMethods?.length === 0;
    const fastest = names.filter((name) => name !== "vanilla").slice(0, FIRST_METHODS);
    const first = wanted.length || isNone ? wanted : fastest;
    $("methods").replaceChildren();
    for (const name of names) {
      const label = element("label", $("methods"));
      const box = element("input", label);
      Object.assign(box, { type: "checkbox", value: name, checked: first.includes(name) });
      box.addEventListener("change", () => {
        chosenMethods = shownMethods();
        draw();
        remember();
      });
      label.append(` ${name}`);
    }
    draw();
  }

  function shownMethods() {
    const boxes = $("methods").querySelectorAll("input:checked");
    return [...boxes].map((box) => box.value);
  }

  // --- a method's steps ------------------------------------------------------------------------
  // [{source, from, to, drafted, refused}]; the prefill emits token 0
  function stepsOf(method) {
    const { steps: flat, refused = {} } = text.methods[method];
    const steps = [{ source: "prefill", from: 0, to: 1, drafted: 0, refused: [] }];
    for (let i = 0, at = 1; i < flat.length; i += 3) {
      const [source, emitted, drafted] = flat.slice(i, i + 3);
      const number = steps.length;
      steps.push({
        source: data.sources[source], from: at, to: at + emitted, drafted,
        refused: refused[number] ?? [],
      });
      at += emitted;
    }
    return steps;
  }

  const accepted = (s) => s.to - s.from - 1;

  function told(s) {
    if (s.source === "prefill") return "the prefill's token";
    if (s.source === "none") return "nothing drafted, 1 token";
    return `${s.source}: ${accepted(s)} accepted + 1`;
  }

  function refused(s) {
    if (s.refused.length) {
      return "refused here: " + s.refused.map((t) => JSON.stringify(t)).join("  ");
    }
    return s.drafted > accepted(s) && !text.knowsDrafts ? "(which: run with --record-drafts)" : "";
  }

  function hint(s, number) {
    const lines = [`step ${number}: ${told(s)}`, `tokens ${s.from + 1} to ${s.to}`];
    if (s.drafted) lines.push(`${s.drafted} nodes drafted, ${s.drafted - accepted(s)} refused`);
    if (refused(s)) lines.push(refused(s));
    return lines.join("\n");
  }

  // --- drawing ---------------------------------------------------------------------------------
  function column(method) {
    const tokens = text.methods[method].tokens || text.tokens;
    const steps = stepsOf(method);
    const box = element("div", null, null, "column");
    const perStep = ((tokens.length - 1) / Math.max(1, steps.length - 1)).toFixed(2);
    const differs = text.methods[method].tokens ? " (text differs from vanilla)" : "";
    element("h4", box, `${method}: ${steps.length - 1} steps, ${perStep} tokens a step${differs}`);
    const now = element("p", box, null, "current");
    const body = element("div", box, null, "trace");
    body.tabIndex = 0;
    const made = { method, tokens, steps, now, body, spans: [], at: -1 };
    let part = null;
    let block = null;
    for (const [number, s] of steps.entries()) {
      const name = partOf(s);
      if (name !== part) {
        part = name;
        if (text.split !== null) element("h5", body, name);
        block = null;
      }
      const isFull = block && block.childElementCount >= STEPS_IN_BLOCK && block.endsLine;
      if (!block || isFull || block.childElementCount >= MOST_STEPS_IN_BLOCK) {
        block = element("div", body, null, "block");
      }
      const span = stepSpan(s, number, tokens);
      block.append(span);
      block.endsLine = tokens[s.to - 1].endsWith("\n");
      made.spans.push(span);
    }
    body.addEventListener("click", (event) => {
      const span = event.target.closest(".step");
      if (span) walk(Number(span.dataset.step));
    });
    body.addEventListener("mousemove", (event) => pointAt(event, made));
    body.addEventListener("mouseleave", unpoint);
    body.addEventListener("scroll", unpoint);
    columns.push(made);
    return box;
  }

  const partOf = (s) => (text.split !== null && s.from >= text.split ? "answer" : "thinking");

  function stepSpan(s, number, tokens) {
    const span = document.createElement("span");
    span.className = "step";
    span.dataset.step = number;
    const isForced = (at) => text.forced && at >= text.forced[0] && at < text.forced[1];
    const last = s.to - 1;
    if (accepted(s)) {
      const drafted = element("span", span, tokens.slice(s.from, last).join(""), "drafted");
      drafted.style.background = tint(s.source);
      element("sub", span, String(accepted(s)));
    }
    element("span", span, tokens[last], isForced(last) ? "forced" : "own");
    return span;
  }

  function draw() {
    columns = [];
    $("columns").replaceChildren(...shownMethods().map(column));
    legend();
    mark();
    count();
  }

  function legend() {
    const sources = new Set(columns.flatMap((c) => c.steps.map((s) => s.source)));
    $("legend").replaceChildren();
    element("span", $("legend"), "the target's own token", "own");
    if (text.forced) element("span", $("legend"), "forced: thinking was ended", "forced");
    for (const source of sources) {
      if (source === "none" || source === "prefill") continue;
      element("span", $("legend"), `drafted by ${source}`).style.background = tint(source);
    }
    element("span", $("legend"), "small number: drafted tokens accepted in a row");
  }

  // --- pointing: the same token in every column ---------------------------------------------------
  function pointAt(event, made) {
    const span = event.target.closest?.(".step");
    if (!span) return unpoint();
    const s = made.steps[Number(span.dataset.step)];
    const box = $("hint");
    box.textContent = hint(s, Number(span.dataset.step));
    box.hidden = false;
    const left = Math.min(event.clientX + 12, window.innerWidth - box.offsetWidth - 8);
    const isLow = event.clientY + 18 + box.offsetHeight > window.innerHeight;
    box.style.left = `${Math.max(4, left)}px`;
    box.style.top = `${isLow ? event.clientY - box.offsetHeight - 10 : event.clientY + 18}px`;
    for (const other of columns) {
      other.twin?.classList.remove("twin");
      other.twin = null;
      if (other === made) continue;
      other.twin = other.spans[stepAt(other, s.from)];
      other.twin?.classList.add("twin");
    }
  }

  function unpoint() {
    $("hint").hidden = true;
    for (const column of columns) column.twin?.classList.remove("twin");
  }

  // the step of a column that wrote a token
  function stepAt(column, token) {
    let [low, high] = [0, column.steps.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (column.steps[middle].from <= token) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  // --- walking -----------------------------------------------------------------------------------
  // only what changed is touched: a text of 15,000 tokens has thousands of steps
  function mark() {
    for (const c of columns) {
      const last = c.spans.length - 1;
      const at = Math.min(step, last);
      const isWalk = step > 0 && c.at > 0;
      const from = isWalk ? Math.min(at, c.at) : 0;
      const to = isWalk ? Math.max(at, c.at) : last;
      for (let i = from; i <= to; i++) {
        c.spans[i].classList.toggle("later", step > 0 && i > at);
        c.spans[i].classList.toggle("now", step > 0 && i === at);
      }
      c.at = step ? at : -1;
      const parts = [`step ${at}: ${told(c.steps[at])}`, refused(c.steps[at])].filter(Boolean);
      const now = step > at ? `finished after ${at} steps` : parts.join("; ");
      c.now.textContent = step ? now : "";
      if (step) within(c.body, c.spans[at]);
    }
    $("step").textContent = step ? `step ${step}` : "all steps";
  }

  // scrolls the column, never the page
  function within(body, span) {
    const [outer, inner] = [body.getBoundingClientRect(), span.getBoundingClientRect()];
    if (inner.top < outer.top || inner.bottom > outer.bottom) {
      body.scrollTop += inner.top - outer.top - body.clientHeight / 3;
    }
  }

  function goTo(number) {
    const most = Math.max(...columns.map((c) => c.steps.length - 1), 0);
    step = Math.min(most, Math.max(0, Math.trunc(number) || 0));
    mark();
  }

  // as asked for by the reader, who can go back to it by the address
  function walk(number) {
    if (!text) return;
    goTo(number);
    remember();
  }

  // --- searching ---------------------------------------------------------------------------------
  let found = -1;

  const whole = (candidate) => (candidate.whole ??= candidate.tokens.join(""));

  // what is looked for, or null; copied words may have lost their line breaks
  function pattern() {
    const words = $("search").value.split(/\s+/).filter(Boolean);
    const escaped = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    return escaped.length ? new RegExp(escaped.join("\\s*"), "g") : null;
  }

  const has = (candidate, wanted) => whole(candidate).search(wanted) >= 0;

  function count() {
    const wanted = pattern();
    for (const span of document.querySelectorAll(".step.found")) span.classList.remove("found");
    found = -1;
    if (!wanted || !text) {
      $("matches").textContent = "";
      return;
    }
    const here = [...whole(text).matchAll(wanted)].length;
    const others = listed().filter(([t]) => t !== text && has(t, wanted)).length;
    $("matches").textContent = `${here} here, in ${others} other generations`;
  }

  function search() {
    const wanted = pattern();
    if (!wanted || !text) return;
    wanted.lastIndex = found + 1;
    const match = wanted.exec(whole(text));
    if (match) {
      show(match);
      return;
    }
    const texts = listed();
    const own = texts.findIndex(([t]) => t === text);
    const following = [...texts.slice(own + 1), ...texts.slice(0, own + 1)];
    const next = following.find(([t]) => has(t, wanted));
    if (!next) return;
    $("text").value = next[1];
    chooseText();
    wanted.lastIndex = 0;
    show(wanted.exec(whole(text)));
    remember();
  }

  // the token that holds a character
  function tokenAt(tokens, character) {
    let token = 0;
    for (let end = 0; token < tokens.length - 1; token++) {
      end += tokens[token].length;
      if (end > character) break;
    }
    return token;
  }

  function show(match) {
    found = match.index;
    for (const c of columns) {
      for (const other of c.body.querySelectorAll(".found")) other.classList.remove("found");
      const own = c.tokens === text.tokens ? match : pattern().exec(c.tokens.join(""));
      if (!own) continue; // this method wrote another text
      const first = stepAt(c, tokenAt(c.tokens, own.index));
      const last = stepAt(c, tokenAt(c.tokens, own.index + own[0].length - 1));
      for (let i = first; i <= last; i++) c.spans[i].classList.add("found");
      within(c.body, c.spans[first]);
    }
  }

  // --- the address ---------------------------------------------------------------------------------
  function remember() {
    if (!text) return;
    const address = new URLSearchParams({
      setting: text.setting, text: text.title, methods: shownMethods().join(" "), step,
    });
    history.replaceState(null, "", `#${address}`);
  }

  function fromAddress() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const isAsked = (t) => t.setting === asked.get("setting") && t.title === asked.get("text");
    const at = data.texts.findIndex(isAsked);
    if (at < 0) return false;
    filter = {};
    const methods = asked.get("methods");
    chosenMethods = methods === null ? null : methods.split(" ").filter(Boolean);
    $("setting").value = data.texts[at].setting;
    chooseSetting();
    $("text").value = at;
    chooseText();
    goTo(Number(asked.get("step")));
    return true;
  }

  function isInView(part) {
    const box = part.getBoundingClientRect();
    return box.bottom > 0 && box.top < window.innerHeight;
  }

  // the generations behind a point or bar of a chart
  function open(title, row) {
    if (!data.texts.some((candidate) => candidate.setting === title)) return;
    filter = {};
    if (row.number !== undefined) filter.number = row.number;
    if (row.category !== undefined) filter.category = row.category;
    if (row.method) chosenMethods = [row.method];
    $("setting").value = title;
    chooseSetting();
    $("viewer").scrollIntoView({ block: "start" });
  }

  function settings() {
    const titles = [...new Set(data.texts.map((candidate) => candidate.setting))];
    return limit ? titles.filter((title) => limit.includes(title)) : titles;
  }

  function fillSettings() {
    const before = $("setting").value;
    const titles = settings();
    $("setting").replaceChildren(...titles.map((title) => new Option(title, title)));
    if (titles.includes(before)) {
      $("setting").value = before;
    } else {
      filter = {};
      chooseSetting();
    }
  }

  function start() {
    if (!data.texts.length) {
      $("viewer-section").hidden = true;
      return;
    }
    fillSettings();
    if (text === null) chooseSetting();
    if (fromAddress()) $("viewer").scrollIntoView({ block: "start" });
    window.addEventListener("hashchange", fromAddress);
  }

  $("setting").addEventListener("change", () => {
    filter = {};
    chooseSetting();
    remember();
  });
  $("text").addEventListener("change", () => {
    chooseText();
    remember();
  });
  $("filter").addEventListener("click", () => { filter = {}; chooseSetting(); });
  $("back").addEventListener("click", () => walk(step - 1));
  $("next").addEventListener("click", () => walk(step + 1));
  $("all").addEventListener("click", () => walk(0));
  $("search").addEventListener("input", count);
  $("search").addEventListener("keydown", (event) => { if (event.key === "Enter") search(); });
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.tagName === "SELECT" || event.target.type === "search";
    const isChord = event.altKey || event.ctrlKey || event.metaKey || event.shiftKey;
    if (isTyping || isChord || !isInView($("columns"))) return;
    if (event.key === "ArrowRight") walk(step + 1);
    if (event.key === "ArrowLeft") walk(step - 1);
  });
  Charts.onDark(() => text && draw());
  start();

  return {
    open,
    limit(titles) {
      limit = titles;
      fillSettings();
    },
  };
})();
