// The trace viewer: a text with every token coloured by who drafted it, several methods side by side, steps to walk.
(function () {
  const data = JSON.parse(document.getElementById("traces").textContent);
  const palette = ["#d9d9d9", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#8fb0ff", "#D55E00", "#b09fd6", "#a8d08d"];
  const $ = (id) => document.getElementById(id);
  if (!data.texts.length) return;
  const settings = [...new Set(data.texts.map((t) => t.setting))];
  const fill = (select, items) => select.replaceChildren(...items.map(([value, label]) => new Option(label, value)));
  const tint = (source) => palette[(data.sources.indexOf(source) + 1) % palette.length];
  let text, step = 0;

  function chooseSetting() {
    const found = data.texts.map((t, i) => [i, t.title, t.setting]).filter((t) => t[2] === $("setting").value);
    fill($("text"), found.map(([i, title]) => [i, title]));
    chooseText();
  }

  function chooseText() {
    text = data.texts[$("text").value];
    const before = new Set([...document.querySelectorAll("#methods input:checked")].map((b) => b.value));
    const names = Object.keys(text.methods);
    const first = before.size ? names.filter((n) => before.has(n)) : names.filter((n) => n !== "vanilla").slice(0, 3);
    $("methods").replaceChildren(...names.map((name) => {
      const label = document.createElement("label");
      const box = Object.assign(document.createElement("input"), { type: "checkbox", value: name, checked: first.includes(name) });
      box.addEventListener("change", draw);
      label.append(box, " " + name);
      return label;
    }));
    step = 0;
    draw();
  }

  // [{source, from, to}] of a method's steps; the prefill emits token 0
  function stepsOf(method) {
    const flat = text.methods[method].steps, steps = [{ source: "prefill", from: 0, to: 1 }];
    for (let i = 0, at = 1; i < flat.length; i += 2) {
      steps.push({ source: data.sources[flat[i]], from: at, to: at + flat[i + 1] });
      at += flat[i + 1];
    }
    return steps;
  }

  function column(method) {
    const box = document.createElement("div"), head = document.createElement("h4"), body = document.createElement("div");
    const tokens = text.methods[method].tokens || text.tokens, steps = stepsOf(method);
    const differs = text.methods[method].tokens ? " (text differs from vanilla)" : "";
    head.textContent = `${method}: ${steps.length - 1} steps, ${((tokens.length - 1) / Math.max(1, steps.length - 1)).toFixed(2)} tokens a step${differs}`;
    body.className = "trace";
    steps.forEach((s, number) => {
      const span = document.createElement("span");
      span.className = "step" + (step > 0 && number === step ? " now" : "") + (number > step && step > 0 ? " later" : "");
      span.title = `step ${number}: ${s.source}, ${s.to - s.from} token(s)`;
      for (let i = s.from; i < s.to; i++) {
        const token = document.createElement("span");
        token.textContent = tokens[i];
        const own = i === s.to - 1; // the last token of a step is the target's own
        token.style.background = s.source === "prefill" || own ? palette[0] : tint(s.source);
        token.className = own ? "own" : "drafted";
        span.append(token);
      }
      span.addEventListener("click", () => { step = number; draw(); });
      body.append(span);
    });
    box.className = "column";
    box.append(head, body);
    return box;
  }

  function draw() {
    const chosen = [...document.querySelectorAll("#methods input:checked")].map((b) => b.value);
    $("columns").replaceChildren(...chosen.map(column));
    $("step").textContent = step ? `step ${step}` : "all steps";
    document.querySelectorAll(".step.now").forEach((e) => e.scrollIntoView({ block: "nearest" }));
  }

  function walk(by) {
    const most = Math.max(...[...document.querySelectorAll("#methods input:checked")].map((b) => stepsOf(b.value).length - 1), 0);
    step = Math.min(most, Math.max(0, step + by));
    draw();
  }

  fill($("setting"), settings.map((s) => [s, s]));
  $("legend").replaceChildren(...[["own", palette[0]], ...data.sources.filter((s) => s !== "none").map((s) => [s, tint(s)])]
    .map(([name, background]) => {
      const span = document.createElement("span");
      span.textContent = name === "own" ? "the target's own token" : `drafted by ${name}`;
      span.style.background = background;
      return span;
    }));
  $("setting").addEventListener("change", chooseSetting);
  $("text").addEventListener("change", chooseText);
  $("back").addEventListener("click", () => walk(-1));
  $("next").addEventListener("click", () => walk(1));
  $("all").addEventListener("click", () => { step = 0; draw(); });
  document.addEventListener("keydown", (e) => {
    if (e.target.tagName === "SELECT") return;
    if (e.key === "ArrowRight") walk(1);
    if (e.key === "ArrowLeft") walk(-1);
  });
  chooseSetting();
})();
