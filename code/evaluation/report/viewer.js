// The trace viewer: a text with every token coloured by who drafted it, several methods side by side, steps to walk.
(function () {
  const data = JSON.parse(document.getElementById("traces").textContent);
  const OWN = "#d9d9d9"; // the target's own tokens
  const $ = (id) => document.getElementById(id);
  if (!data.texts.length) return;
  const settings = [...new Set(data.texts.map((t) => t.setting))];
  const fill = (select, items) => select.replaceChildren(...items.map(([value, label]) => new Option(label, value)));
  const tint = (source) => data.colours[data.sources.indexOf(source)] + "66"; // light enough to read black on
  let text, step = 0, walked = false;
  const shown = () => [...document.querySelectorAll("#methods input:checked")].map((b) => b.value);

  function chooseSetting() {
    const found = data.texts.map((t, i) => [i, t.title, t.setting]).filter((t) => t[2] === $("setting").value);
    fill($("text"), found.map(([i, title]) => [i, title]));
    chooseText();
  }

  function chooseText() {
    text = data.texts[$("text").value];
    const names = Object.keys(text.methods), before = shown();
    const first = walked ? names.filter((n) => before.includes(n)) : names.filter((n) => n !== "vanilla").slice(0, 3);
    $("methods").replaceChildren(...names.map((name) => {
      const label = document.createElement("label");
      const box = Object.assign(document.createElement("input"), { type: "checkbox", value: name, checked: first.includes(name) });
      box.addEventListener("change", () => { walked = true; draw(); });
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

  const accepted = (s) => s.source === "prefill" ? "the prefill's token"
    : s.source === "none" ? "nothing drafted, 1 token" : `${s.source}: ${s.to - s.from - 1} accepted + 1`;

  function column(method) {
    const box = document.createElement("div"), head = document.createElement("h4"), body = document.createElement("div");
    const tokens = text.methods[method].tokens || text.tokens, steps = stepsOf(method);
    const differs = text.methods[method].tokens ? " (text differs from vanilla)" : "";
    head.textContent = `${method}: ${steps.length - 1} steps, ${((tokens.length - 1) / Math.max(1, steps.length - 1)).toFixed(2)} tokens a step${differs}`;
    const now = Object.assign(document.createElement("p"), { className: "current" });
    body.className = "trace";
    const spans = steps.map((s, number) => {
      const span = document.createElement("span");
      span.className = "step";
      span.title = `step ${number}: ${accepted(s)}`;
      for (let i = s.from; i < s.to; i++) {
        const token = document.createElement("span");
        token.textContent = tokens[i];
        const own = i === s.to - 1; // the last token of a step is the target's own
        token.style.background = s.source === "prefill" || own ? OWN : tint(s.source);
        token.className = own ? "own" : "drafted";
        span.append(token);
      }
      if (s.to - s.from > 1) {
        const run = document.createElement("sub");
        run.textContent = s.to - s.from - 1;
        span.append(run);
      }
      span.addEventListener("click", () => { step = number; mark(); });
      return span;
    });
    body.append(...spans);
    box.className = "column";
    box.append(head, now, body);
    columns.push({ steps, spans, now, at: -1 });
    return box;
  }

  let columns = [];
  function draw() {
    columns = [];
    $("columns").replaceChildren(...shown().map(column));
    const used = new Set(columns.flatMap((c) => c.steps.map((s) => s.source)));
    legend([...used].filter((s) => s !== "none" && s !== "prefill"));
    mark();
  }

  // only what changed is touched: a text of 15,000 tokens has thousands of steps
  function mark() {
    for (const c of columns) {
      const at = Math.min(step, c.steps.length - 1);
      const [from, to] = c.at < 0 ? [0, c.spans.length - 1] : [Math.min(at, c.at), Math.max(at, c.at)];
      for (let i = step && c.at > 0 ? from : 0; i <= (step && c.at > 0 ? to : c.spans.length - 1); i++) {
        c.spans[i].classList.toggle("later", step > 0 && i > at);
        c.spans[i].classList.toggle("now", step > 0 && i === at);
      }
      c.at = step ? at : -1;
      c.now.textContent = step ? (step === at ? `step ${at}: ${accepted(c.steps[at])}` : `finished after ${at} steps`) : "";
      if (step) c.spans[at].scrollIntoView({ block: "nearest" });
    }
    $("step").textContent = step ? `step ${step}` : "all steps";
  }

  function walk(by) {
    const most = Math.max(...columns.map((c) => c.steps.length - 1), 0);
    step = Math.min(most, Math.max(0, step + by));
    mark();
  }

  function legend(sources) {
    $("legend").replaceChildren(...[["the target's own token", OWN], ...sources.map((s) => [`drafted by ${s}`, tint(s)]),
      ["small number: drafted tokens accepted in a row", "#fff"]].map(([label, background]) => {
      const span = document.createElement("span");
      span.textContent = label;
      span.style.background = background;
      return span;
    }));
  }

  fill($("setting"), settings.map((s) => [s, s]));
  $("setting").addEventListener("change", chooseSetting);
  $("text").addEventListener("change", chooseText);
  $("back").addEventListener("click", () => walk(-1));
  $("next").addEventListener("click", () => walk(1));
  $("all").addEventListener("click", () => { step = 0; mark(); });
  document.addEventListener("keydown", (e) => {
    if (e.target.tagName === "SELECT") return;
    if (e.key === "ArrowRight") walk(1);
    if (e.key === "ArrowLeft") walk(-1);
  });
  chooseSetting();
})();
