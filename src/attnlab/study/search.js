// ---- a search: what it tried, and what fresh seeds confirmed of it; functions alone, which page.js calls ----

function showSearch() {
  const { words, designs, drawing } = told.search;
  byId("leaderboard-title").textContent = "Confirmed";
  byId("scope").textContent = searchScope();
  byId("summary").prepend(el("p.warning", { id: "curse" }, el("b", "Warning: "), words.curse));
  if (!variants.length) {
    for (const nothing of [byId("leaderboard"), document.querySelector(".head section")]) nothing.hidden = true;
    addSection("unconfirmed", "Confirmed", el("p", words.to_confirm));
  }
  if (words.conclusions.length || designs.length)
    addSection(
      "optimism",
      "Searched against confirmed",
      el("ul", words.conclusions.map((text) => el("li", text))),
      designTable() ?? "",
    );
  const best = drawing && [el("h3", "The best design, as attnlab sites draws it"), el("pre", { tabindex: 0 }, drawing)];
  addSection(
    "searched",
    "Searched",
    el("p.warning", "Validation of one seed each: not to be cited."),
    words.progress.map((text) => el("p", text)),
    trialTable(),
    best || "",
  );
}
function searchScope() {
  const { confirmed, trials } = told.search;
  const tried = `${capital(several(trials.length, "trial"))} of one seed each.`;
  if (!variants.length) return tried;
  const seeds = list(confirmed.seeds.map(String));
  return `${tried} Confirmed: ${several(variants.length, "variant")} with seeds ${seeds} (${confirmed.study}).`;
}
function designTable() {
  const { designs, metric: own, random } = told.search;
  const rows = new Map(variants.map((variant) => [variant.id, variant]));
  const columns = [
    ["design", (design) => design.label, "left wrap"],
    [`validation at selection ${own.unit}`, (design) => written(design.validation, own)],
    [`test, fresh seeds ${own.unit}`, (design) => estimate(design.test, false, own)],
    ["optimism", (design) => known(design.optimism) && plus(own.scale * design.optimism, own.digits)],
    ["verdict", (design) => rows.has(design.id) && verdictMark(rows.get(design.id)), "left"],
    ["found by", (design) => random && (design.origin === "random" ? "random search" : "search"), "left"],
    ["trial", (design) => design.number],
  ];
  return tableOf(columns, designs);
}
function trialTable(most = 10) {
  const { trials, ranked, designs, metric: own } = told.search;
  const names = { ...COSTS, activation_bytes: "activation bytes" };
  const write = { macs: si, latency_ms: (ms) => ms.toFixed(2) };
  const byNumber = new Map(trials.map((trial) => [trial.number, trial]));
  const confirmed = new Set(designs.filter((design) => design.test).map((design) => design.id));
  const states = { done: "", paused: " (stopped)" };
  const costs = Object.keys(names).map((cost) => [
    names[cost],
    (trial) => known(trial.costs[cost]) && (write[cost] ?? count)(trial.costs[cost]),
  ]);
  const columns = [
    ["design", (trial) => trial.label, "left wrap"],
    ["trial", (trial) => trial.number],
    [`validation ${own.unit}`, (trial) => written(trial.validation, own)],
    ["epochs", (trial) => trial.epochs + (states[trial.state] ?? ` (${trial.state})`)],
    ...costs,
    ["front in", (trial) => list(trial.front.map((cost) => names[cost])), "left"],
    ["confirmed", (trial) => (confirmed.has(trial.id) ? "yes" : ""), "left"],
    ["folder", (trial) => el("code", trial.folder), "left"],
  ];
  const rows = [...ranked.map((n) => byNumber.get(n)), ...trials.filter((trial) => !ranked.includes(trial.number))];
  const holder = el("div", tableOf(columns, rows.slice(0, most)));
  if (rows.length <= most) return holder;
  const click = () => holder.replaceChildren(tableOf(columns, rows));
  const button = el("button", { type: "button", click }, `show all ${count(rows.length)} trials`);
  holder.append(el("p", button));
  return holder;
}
