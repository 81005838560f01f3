"use strict";

const told = JSON.parse(document.getElementById("told").textContent);
const variants = told.variants.map((variant, index) => ({ ...variant, index }));
const suffix = told.metric.name === "accuracy" ? "" : `-${told.metric.name}`; // of the names of files
const varying = new Set(told.varying);
const metric = told.metric; // what the rows call accuracy
const REPLICATE = told.replicates ? "replicate" : "seed";
const head = [metric.words, metric.unit].filter(Boolean).join(" ");
const COSTS = { parameters: "parameters", macs: "MACs", latency_ms: "ms" };
const ON_THESE = " on these images"; // nobody knows of others, or they may say otherwise
const VERDICTS = {
  better: "▲",
  [`better${ON_THESE}`]: "△",
  worse: "▼",
  [`worse${ON_THESE}`]: "▽",
  undecided: "○",
  "one pair": "–",
};
const INKS = ["currentColor", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]; // Okabe and Ito
const DASHES = ["", "7 3", "2 2"];
const CURVES = ["train/loss", "val/loss", "train/accuracy", "val/accuracy"]; // in this order, others after them
const SHARES = ["accuracy", "f1", "calibration_error"]; // their curves are in percent
const ROWS_AT_ONCE = 150;
const ALSO_AT_FIRST = 2; // columns of what was also measured that are shown without being asked for

const known = (value) => value !== null && value !== undefined;

// ---- elements: text goes in as text, never as markup ----

// el("p.lead", { id: "verdict" }, "words", child): the attributes may be left out; functions among them listen
function maker(create) {
  return (words, ...rest) => {
    const [tag, ...classes] = words.split(".");
    const node = create(tag);
    node.classList.add(...classes);
    const attributes = rest[0]?.constructor === Object ? rest.shift() : {};
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") node.addEventListener(name, value);
      else if (known(value) && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...rest.flat(2).filter((child) => known(child) && child !== false && child !== ""));
    return node;
  };
}
const el = maker((tag) => document.createElement(tag));
const svg = maker((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
const POINTS = metric.unit ? "points" : metric.difference; // of differences
const byId = (id) => document.getElementById(id);

// ---- numbers and words ----

const minus = (text) => text.replace("-", "−");
const plus = (value, digits = 1) =>
  minus((value > 0 ? "+" : "") + value.toFixed(digits)).replace(/^[+−](0\.?0*)$/, "$1");
const count = (value) => value.toLocaleString("en-US");
const several = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
const capital = (text) => text[0].toUpperCase() + text.slice(1);

function estimate(found, sign = false, how = metric) {
  if (!found) return "";
  const mean = sign ? plus(how.scale * found.mean, how.digits) : written(found.mean, how);
  return known(found.half_width) ? `${mean} ± ${written(found.half_width, how)}` : mean;
}
function probability(p) {
  if (!known(p)) return "";
  if (p < 0.001) return "<.001";
  return p >= 0.9995 ? "1.000" : p.toFixed(3).slice(1);
}
const written = (value, how = metric) => (known(value) ? minus((how.scale * value).toFixed(how.digits)) : "");
function si(value) {
  if (value < 1000) return String(Number(value.toPrecision(4)));
  const power = Math.min(3, Math.floor(Math.log10(value) / 3));
  const scaled = value / 1000 ** power;
  return `${scaled >= 1000 ? scaled.toFixed(0) : scaled.toPrecision(4)} ${" kMG"[power]}`;
}
function list(items, most = Infinity) {
  const shown = items.length > most ? [...items.slice(0, most), `${items.length - most} more`] : items;
  return shown.length < 2 ? shown.join("") : `${shown.slice(0, -1).join(", ")} and ${shown.at(-1)}`;
}
function verdictWords(variant) {
  if (variant.is_baseline) return "baseline";
  if (variant.verdict === "undecided") {
    if (variant.difference.n < 3) return "undecided"; // too few to say how many more
    return `undecided (${variant.more_seeds ?? "many"})`;
  }
  return variant.verdict ?? "";
}
function verdictMark(variant) {
  const words = verdictWords(variant);
  if (!words) return null;
  const symbol = VERDICTS[variant.verdict];
  const kind = variant.verdict === "one pair" ? "undecided" : variant.verdict;
  return el("span.verdict", symbol && el("i", { class: kind, "aria-hidden": "true" }, symbol), words);
}

// ---- copying ----

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = el("textarea.unseen"); // a page from a plain http server may not use the clipboard
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    button.focus();
  }
  const before = button.textContent;
  button.textContent = "copied";
  byId("said").textContent = "copied";
  setTimeout(() => {
    button.textContent = before;
    byId("said").textContent = "";
  }, 1200);
}
function copyButton(text, what) {
  return el(
    "button",
    { type: "button", class: "copy", "aria-label": `copy ${what}`, click: (event) => copy(text, event.currentTarget) },
    "copy",
  );
}

// ---- what a variant costs more than the baseline ----

const baselines = variants.filter((variant) => variant.is_baseline);
function extra(variant, cost) {
  if (baselines.length !== 1 || variant.is_baseline || !baselines[0][cost] || !known(variant[cost])) return "";
  const percent = 100 * (variant[cost] / baselines[0][cost] - 1);
  return `${plus(percent, Math.abs(percent) < 10 ? 1 : 0)}\u00a0%`;
}
function costWords(variant) {
  const parts = Object.entries(COSTS).filter(([cost]) => known(variant[cost]));
  if (extra(variant, "parameters"))
    return list(parts.map(([cost, name]) => `${extra(variant, cost)} ${name === "ms" ? "time" : name}`));
  return list(parts.map(([cost, name]) => `${cost === "macs" ? si(variant[cost]) : count(variant[cost])} ${name}`));
}

// ---- the head of the page ----

const compared = variants.filter((variant) => !variant.is_baseline && variant.difference);
const gainOf = (variant) => (metric.lower ? -1 : 1) * variant.difference.mean;
const withVerdict = (verdict) =>
  compared.filter((variant) => variant.verdict === verdict).sort((a, b) => gainOf(b) - gainOf(a));

function conclusion() {
  if (!told.headline)
    return ["No variant has a baseline to be compared with: nothing is shown to be better or worse."];
  return [el("strong", told.headline)];
}
function inNumbers() {
  if (!compared.length) return null;
  const better = withVerdict("better");
  const kinds = Object.keys(VERDICTS).filter((verdict) => verdict !== "better");
  const rest = kinds
    .map((verdict) => [verdict, verdict === "one pair" ? "of one pair only" : verdict])
    .map(([verdict, words]) => [withVerdict(verdict).length, words])
    .filter(([n]) => n)
    .map(([n, words]) => `${count(n)} ${n === 1 ? "is" : "are"} ${words}`);
  const many = `${better.length ? count(better.length) : "None"} of ${several(compared.length, "variant")}`;
  const than = baselines.length > 1 ? "their baselines" : "the baseline";
  const verb = better.length > 1 ? "are" : "is";
  const out = [`${many} ${verb} better than ${than} after correction for all comparisons`];
  if (rest.length) out.push(`; ${list(rest)}`);
  const cheapest = [...better].sort((a, b) => a.macs - b.macs)[0];
  if (better.length > 1)
    out.push(". Of the better ones, ", el("strong", cheapest.label), " has the fewest MACs: ", gained(cheapest));
  return el("p", { id: "numbers" }, [...out, "."]);
}
function gained(variant) {
  const p = known(variant.p_holm) ? ` (p ${probability(variant.p_holm)})` : "";
  return [el("span.nobr", `${estimate(variant.difference, true)} ${POINTS}${p}`), ` for ${costWords(variant)}`];
}
function scope() {
  if (!variants.length) return "No point has finished.";
  const seeds = variants.map((variant) => variant.accuracy.n);
  const [least, most] = [seeds.reduce((a, b) => Math.min(a, b), Infinity), seeds.reduce((a, b) => Math.max(a, b), 0)];
  const points = seeds.reduce((a, b) => a + b, 0);
  const each = least === most ? several(least, REPLICATE) : `${least} to ${most} ${REPLICATE}s`;
  const missing = told.unfinished.length ? ` ${capital(several(told.unfinished.length, "point"))} did not finish.` : "";
  const against = told.baseline ? ` The baseline is ${told.baseline}.` : "";
  const all = `${several(variants.length, "variant")}, ${several(points, "finished point")}`;
  const folds = told.replicates ? ` Replicates are ${told.replicates}, paired by fold and seed.` : "";
  return `${all}, ${each} a variant.${folds}${against}${missing}`;
}
function showHead() {
  const varies = Object.entries(told.factors).map(([factor, levels]) => [el("dt", factor), el("dd", list(levels, 10))]);
  byId("study").textContent = told.study;
  byId("made").textContent = `${told.made} · attnlab ${told.version}`;
  byId("summary").append(
    told.subset ? el("p", { id: "subset" }, told.subset) : "",
    el("p.lead", { id: "verdict" }, conclusion()),
    inNumbers() ?? "",
    told.at_equal_cost ? el("p", told.at_equal_cost) : "",
    el("p", { id: "scope" }, scope()),
    varies.length ? el("dl", { "aria-label": "what varies" }, varies.flat()) : "",
    ...told.warnings.map((text) => el("p.warning", el("b", "Warning: "), text)),
  );
}

// ---- the leaderboard: its columns ----

const reach = (() => {
  // of the marks' axis: nearly all means, and nine tenths of the intervals
  const means = compared.map(({ difference }) => Math.abs(difference.mean)).sort((a, b) => a - b);
  const ends = compared
    .map(
      ({ difference }) =>
        Math.abs(difference.mean) + Math.min(difference.half_width ?? 0, 2 * Math.abs(difference.mean) + 0.01),
    )
    .sort((a, b) => a - b);
  const upTo = (values, share) => values[Math.ceil(share * (values.length - 1))] || 0.01;
  return niceAbove(Math.max(upTo(means, 0.98), upTo(ends, 0.9)));
})();
function niceAbove(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 7, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}
function forest(found, kind, limit, width = 120) {
  const x = (value) => Math.max(0, Math.min(width, (width / 2) * (1 + value / limit)));
  const half = found.half_width ?? 0;
  const [low, middle, high] = [found.mean - half, found.mean, found.mean + half].map(x);
  const tip = (end, to) => svg("path", { d: `M${end - to * 6} 4.5L${end} 8L${end - to * 6} 11.5Z` }); // goes on
  return svg(
    "svg",
    { class: `forest ${kind ?? "undecided"}`, width, height: 16, viewBox: `0 0 ${width} 16`, "aria-hidden": "true" },
    svg("path.zero", { d: `M${width / 2} 0V16` }),
    half > 0 && svg("path", { d: `M${low} 8H${high}`, "stroke-width": 1.5 }),
    found.mean - half < -limit && tip(0, -1),
    found.mean + half > limit && tip(width, 1),
    Math.abs(found.mean) <= limit && svg("circle", { cx: middle, cy: 8, r: 3.3 }),
  );
}
function axis(limit) {
  const digits = metric.scale * limit < 1 ? metric.digits : 0;
  const at = (left, text) => el("span", { style: `left:${left}%` }, text);
  return el(
    "span.axis",
    { "aria-hidden": "true" },
    at(0, plus(-metric.scale * limit, digits)),
    at(50, "0"),
    at(100, plus(metric.scale * limit, digits)),
  );
}

const order = new Intl.Collator("en", { numeric: true });
const rank = { better: 0, [`better${ON_THESE}`]: 1, undecided: 2, "one pair": 3, [`worse${ON_THESE}`]: 4, worse: 5 };
const column = (head, first, value, cell, more) => ({ head, first, value, cell, ...more });
const number = (head, first, value, write, more) =>
  column(head, first, value, (v) => (known(value(v)) ? write(value(v)) : ""), { name: head, ...more });
const [UP, DOWN] = ["ascending", "descending"]; // of the first click, so that the best comes first
const BEST_FIRST = metric.lower ? UP : DOWN;
const costBelow = () => el("small", COSTS[state.cost]);
const EVERY_COLUMN = {
  label: column("variant", UP, (v) => v.label, labelCell, { left: true, kind: "left label" }),
  accuracy: column(head, BEST_FIRST, (v) => v.accuracy.mean, accuracyCell),
  difference: column("vs baseline", BEST_FIRST, (v) => v.difference?.mean, differenceCell, { below: () => axis(reach) }),
  both: number("both ±", UP, (v) => v.difference_both, written),
  p: number("p (Holm)", UP, (v) => v.p_holm, probability, { name: "p" }),
  verdict: column("verdict", UP, (v) => rank[v.verdict], verdictMark, { left: true }),
  effect: number("effect d", DOWN, (v) => v.effect_size, plus, { name: "d" }),
  test: number("test ±", UP, (v) => v.accuracy_test, written),
  ...Object.fromEntries([...ensembleColumns(), ...alsoColumns()]),
  parameters: number("parameters", UP, (v) => v.parameters, count),
  macs: number("MACs", UP, (v) => v.macs, si),
  ms: number("ms", UP, (v) => v.latency_ms, (ms) => ms.toFixed(2)),
  gain: number("per 1 %", DOWN, (v) => v.gain?.[state.cost], gainText, { below: costBelow }),
  front: number("front", UP, (v) => (onFront(v) ? 0 : 1), frontText, { below: costBelow }),
};
function alsoColumns() {
  return (told.also ?? []).map((how) => {
    const head = [how.key, how.unit].filter(Boolean).join(" ");
    const cell = (v) => v.also[how.key] && alsoCell(v.also[how.key], v.accuracy.n, how);
    const first = how.key.startsWith("on ") ? BEST_FIRST : how.lower ? UP : DOWN;
    const told = how.key.startsWith("on ") ? "" : how.words.slice(how.key.length).replace(/^, /, ""); // "chance 0.12"
    const more = { name: head, also: how.key, below: () => told && el("small", told) };
    return [`also ${how.key}`, column(head, first, (v) => v.also[how.key]?.mean, cell, more)];
  });
}
function alsoCell(found, n, how) {
  const few = found.n < n && el("small", ` (${found.n})`);
  const p = known(found.p_holm) ? `, p ${probability(found.p_holm)}` : "";
  const below = found.difference && el("small.below", estimate(found.difference, true, how) + p);
  return [estimate(found, false, how), few, below].filter(Boolean);
}
function ensembleColumns() {
  return (told.ensembles ?? []).map((name) => {
    const also = name ? `ensemble on ${name}` : "ensemble";
    const head = [also, metric.unit].filter(Boolean).join(" ");
    const cell = (v) => v.ensembles[name] && ensembleCell(v.ensembles[name]);
    return [`also ${also}`, column(head, BEST_FIRST, (v) => v.ensembles[name]?.test, cell, { name: head, also })];
  });
}
function ensembleCell(found) {
  const val = known(found.val) && el("small.below", `validation ${written(found.val)}`);
  return [written(found.test), el("small", ` (of ${found.seeds})`), val].filter(Boolean);
}
function onFront(variant) {
  return variant.front.includes(state.cost);
}
function frontText(not) {
  return not ? "" : el("span", { role: "img", "aria-label": "on the front" }, "◆");
}
function gainText(gain) {
  return plus(metric.scale * gain, metric.digits + 1);
}
function accuracyCell(variant) {
  return [estimate(variant.accuracy), el("small", ` (${variant.accuracy.n})`)];
}
function labelCell(variant) {
  return el(
    "button",
    { type: "button", "aria-expanded": String(state.open.has(variant.id)), "aria-controls": `panel-${variant.index}` },
    variant.label,
  );
}
function differenceCell(variant) {
  if (!variant.difference) return "";
  const pairs = variant.difference.n < variant.accuracy.n ? el("small", ` (${variant.difference.n})`) : null;
  return el(
    "span.with-mark",
    el("span", estimate(variant.difference, true), pairs),
    forest(variant.difference, variant.verdict, reach),
  );
}

// ---- the leaderboard: its state, which is the address, so that a link shows the same ----

const FIRST = { sort: "accuracy", dir: BEST_FIRST, q: "", verdict: "", front: false, cost: "macs" };
const state = { ...FIRST, factors: {}, open: new Set(), also: new Set() };
const COLUMNS = Object.fromEntries(Object.entries(EVERY_COLUMN).filter(hasContent));
const ALSO = Object.values(COLUMNS).flatMap(({ also }) => also ?? []);
const visible = () => Object.entries(COLUMNS).filter(([, { also }]) => !also || state.also.has(also));

function hasContent([key, { value }]) {
  if (key === "accuracy") return true;
  return variants.some((variant) => (key === "gain" ? variant.gain : known(value(variant))));
}

function readState() {
  const given = new URLSearchParams(location.hash.slice(1));
  state.sort = Object.hasOwn(COLUMNS, given.get("sort")) ? given.get("sort") : FIRST.sort;
  state.dir = { up: "ascending", down: "descending" }[given.get("dir")] ?? COLUMNS[state.sort].first;
  state.cost = Object.hasOwn(COSTS, given.get("cost")) ? given.get("cost") : FIRST.cost;
  state.q = given.get("q") ?? "";
  state.verdict = given.get("verdict") ?? "";
  state.front = given.get("front") === "1";
  state.factors = {};
  for (const factor of Object.keys(told.factors))
    if (given.get(`f.${factor}`)) state.factors[factor] = given.get(`f.${factor}`);
  state.open = new Set((given.get("open") ?? "").split(",").filter(Boolean));
  state.also = new Set(given.has("also") ? given.getAll("also").filter((also) => ALSO.includes(also)) : firstOfAlso());
  if (COLUMNS[state.sort].also) state.also.add(COLUMNS[state.sort].also);
}
function firstOfAlso() {
  const ofAll = (also) => also.startsWith("ensemble") || told.variants.every((v) => v.also[also]);
  return ALSO.filter(ofAll).slice(0, ALSO_AT_FIRST);
}
function writeState() {
  const words = new URLSearchParams();
  if (state.sort !== FIRST.sort || state.dir !== FIRST.dir) {
    words.set("sort", state.sort);
    words.set("dir", state.dir === "ascending" ? "up" : "down");
  }
  for (const key of ["q", "verdict"]) if (state[key]) words.set(key, state[key]);
  if (state.front) words.set("front", "1");
  if (state.cost !== FIRST.cost) words.set("cost", state.cost);
  for (const [factor, level] of Object.entries(state.factors)) if (level) words.set(`f.${factor}`, level);
  if (state.open.size) words.set("open", [...state.open].join(","));
  if (String([...state.also].sort()) !== String(firstOfAlso().sort()))
    for (const also of state.also.size ? state.also : [""]) words.append("also", also);
  history.replaceState(null, "", words.size ? `#${words}` : location.pathname + location.search);
}

// ---- the leaderboard: its controls ----

function selection(words, options, get, set) {
  const change = () => {
    set(select.value);
    changed();
  };
  const select = el("select", { change }, options.map(([value, text]) => el("option", { value }, text)));
  controls.push(() => (select.value = get()));
  return field(words, select);
}
let fields = 0;
function field(words, control) {
  control.id = `tool-${fields++}`;
  return el("div.field", el("label", { for: control.id }, words), control);
}
function choiceOf(key, words, options) {
  return selection(words, options, () => state[key], (value) => (state[key] = value));
}
function levelOf(factor, levels) {
  const options = [["", "all"], ...levels.map((level) => [level, level])];
  return selection(factor, options, () => state.factors[factor] ?? "", (level) => (state.factors[factor] = level));
}
const controls = []; // each sets one control to what the state says
function showTools() {
  const take = () => {
    Object.assign(state, { q: search.value, front: front.checked });
    changed();
  };
  const search = el("input", { type: "search", placeholder: "cbam ratio=16", input: take });
  const front = el("input", { type: "checkbox", change: take });
  controls.push(() => Object.assign(search, { value: state.q }), () => Object.assign(front, { checked: state.front }));
  const verdicts = [["", "all"], ...Object.keys(VERDICTS).map((verdict) => [verdict, verdict])];
  byId("tools").append(
    field("words in the variant", search),
    ...Object.entries(told.factors).map(([factor, levels]) => levelOf(factor, levels)),
    choiceOf("verdict", "verdict", verdicts),
    choiceOf("cost", "cost that counts", Object.entries(COSTS)),
    el("label.check", front, "only the Pareto front"),
    alsoTool(),
  );
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  byId("reset").addEventListener("click", () => {
    Object.assign(state, { q: "", verdict: "", front: false, factors: {} });
    changed();
    search.focus();
  });
}
function alsoTool() {
  if (!ALSO.length) return "";
  const boxes = ALSO.map((also) => {
    const change = () => {
      state.also[box.checked ? "add" : "delete"](also);
      if (COLUMNS[state.sort].also === also && !box.checked) Object.assign(state, { sort: FIRST.sort, dir: FIRST.dir });
      changed();
    };
    const box = el("input", { type: "checkbox", change });
    controls.push(() => (box.checked = state.also.has(also)));
    return el("label.check", box, also);
  });
  const summary = el("summary");
  controls.push(() => (summary.textContent = `also measured: ${state.also.size} of ${several(ALSO.length, "column")}`));
  return el("details.also", summary, el("div", boxes));
}
function showHeads() {
  const heads = visible().map(([key, column]) => {
    const sorted = state.sort === key;
    const arrow = el("span.arrow", { "aria-hidden": "true" }, sorted ? (state.dir === "ascending" ? "▴" : "▾") : "");
    const name = column.left ? [column.head, arrow] : [arrow, column.head];
    const below = column.below?.();
    const click = () => sortBy(key);
    const button = el("button", { type: "button", "data-key": key, click }, name, below && " ", below);
    return el("th", { scope: "col", class: column.left && "left", "aria-sort": sorted && state.dir }, button);
  });
  const had = document.activeElement?.closest("#board > thead button")?.dataset.key;
  document.querySelector("#board > thead").replaceChildren(el("tr", heads));
  if (had) document.querySelector(`#board > thead button[data-key="${had}"]`).focus();
}
function sortBy(key) {
  const other = { ascending: "descending", descending: "ascending" };
  state.dir = state.sort === key ? other[state.dir] : COLUMNS[key].first;
  state.sort = key;
  changed();
}

// ---- the leaderboard: its rows, which are made when they come into sight ----

let shown = []; // the variants that pass the filters, sorted
let made = 0; // of them, those that have a row

function passes(variant, words) {
  if (state.verdict && variant.verdict !== state.verdict) return false;
  if (state.front && !onFront(variant)) return false;
  for (const [factor, level] of Object.entries(state.factors))
    if (level && variant.factors[factor] !== level) return false;
  return words.every((word) => searched(variant).includes(word));
}
function searched(variant) {
  variant.text ??= [variant.label, ...Object.entries(variant.factors).map(([factor, level]) => `${factor}=${level}`)]
    .join("\n")
    .toLowerCase();
  return variant.text;
}
function sorted(rows) {
  const { value } = COLUMNS[state.sort];
  const sign = state.dir === "ascending" ? 1 : -1;
  const compare = state.sort === "label" ? order.compare : (a, b) => a - b;
  return rows
    .map((variant) => [value(variant), variant])
    .sort(([a, v], [b, w]) => {
      if (!known(a) || !known(b)) return known(b) - known(a) || v.index - w.index; // what has no value is last
      return sign * compare(a, b) || v.index - w.index;
    })
    .map(([, variant]) => variant);
}
function showRows() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  shown = sorted(variants.filter((variant) => passes(variant, words)));
  made = 0;
  const body = document.querySelector("#board > tbody");
  body.replaceChildren();
  if (!shown.length)
    body.append(el("tr", el("td.empty", { colspan: visible().length }, "No variant passes these filters.")));
  makeRows(ROWS_AT_ONCE);
  byId("count").textContent =
    shown.length === variants.length
      ? `${several(shown.length, "variant")}.`
      : `${count(shown.length)} of ${several(variants.length, "variant")}.`;
  byId("reset").hidden = !(state.q || state.verdict || state.front || Object.values(state.factors).some(Boolean));
}
function makeRows(until) {
  const rows = document.createDocumentFragment();
  for (; made < Math.min(until, shown.length); made++) {
    const variant = shown[made];
    const row = rowOf(variant);
    rows.append(row);
    if (state.open.has(variant.id)) rows.append(panelOf(variant, row));
  }
  document.querySelector("#board > tbody").append(rows);
  byId("more").hidden = made >= shown.length;
}
function rowOf(variant) {
  const cells = visible().map(([, column]) =>
    el("td", { class: column.kind ?? (column.left && "left"), "data-name": column.name }, column.cell(variant)),
  );
  const classes = ["row", variant.is_baseline && "baseline", state.open.has(variant.id) && "open"]
    .filter(Boolean)
    .join(" ");
  const click = (event) => {
    if (!event.target.closest("td.label button") && String(getSelection())) return; // the reader selects text
    toggle(variant, row);
  };
  const row = el("tr", { class: classes, "data-id": variant.id, click }, cells);
  return row;
}
function toggle(variant, row) {
  const open = !state.open.has(variant.id);
  state.open[open ? "add" : "delete"](variant.id);
  row.classList.toggle("open", open);
  row.querySelector("td.label button").setAttribute("aria-expanded", String(open));
  if (open) row.after(panelOf(variant, row));
  else row.nextElementSibling.remove();
  writeState();
}
function showOpen() {
  // what a link points to may be far below
  if (!state.open.size) return;
  makeRows(shown.findLastIndex((variant) => state.open.has(variant.id)) + 1);
  document.querySelector("#board tr.open")?.scrollIntoView();
}
function changed() {
  writeState();
  showAll();
}
function showAll() {
  for (const set of controls) set();
  showHeads();
  showRows();
}

// ---- below a row: all that is known of a variant ----

function panelOf(variant, row) {
  const details = JSON.parse(byId(`details-${variant.index}`).textContent);
  const points = [...details.points].sort((a, b) => a.seed - b.seed || a.fold - b.fold);
  const keydown = (event) => {
    if (event.key !== "Escape") return;
    toggle(variant, row);
    row.querySelector("td.label button").focus();
  };
  const body = el(
    "div.panel-body",
    { role: "group", "aria-label": variant.label, keydown },
    section(variant.is_baseline ? "Numbers" : "Against the baseline", numbersOf(variant)),
    section("Also measured", alsoOf(variant)),
    section(told.replicates ? "Folds and seeds" : "Seeds", seedTable(points)),
    section("Learning curves", curves(points)),
    section("Attention", pictures(points)),
    section("Commands", commands(points)),
    section("Logs", logs(points)),
    section("Configuration", configuration(details.config)),
  );
  return el("tr.panel", { id: `panel-${variant.index}` }, el("td", { colspan: visible().length }, body));
}
function section(title, content) {
  return content ? el("section", el("h3", title), content) : null;
}
function numbersOf(variant) {
  const lines = [];
  const line = (name, ...text) => text[0] && lines.push(el("dt", name), el("dd", text));
  const mean = [estimate(variant.accuracy), metric.unit].filter(Boolean).join(" ");
  line(metric.words, `${mean}, ${several(variant.accuracy.n, REPLICATE)}`);
  if (known(variant.accuracy_test)) line("other test images", `± ${written(variant.accuracy_test)}`);
  if (variant.difference) {
    const both = variant.difference_both;
    const images = known(both) ? `; other seeds and test images ± ${written(both)}` : "";
    line(
      "difference",
      `${estimate(variant.difference, true)} ${POINTS}, ${several(variant.difference.n, "pair")}${images}`,
    );
  }
  if (known(variant.p)) line("p", `${probability(variant.p)}, corrected ${probability(variant.p_holm)}`);
  if (known(variant.p_both))
    line("p, other images too", `${probability(variant.p_both)}, corrected ${probability(variant.p_both_holm)}`);
  if (known(variant.effect_size)) line("effect size d", plus(variant.effect_size, 2));
  if (!variant.is_baseline) line("verdict", verdictMark(variant));
  const same = variant.equal_cost;
  if (same)
    line(
      "at equal cost",
      `against ${same.label}: ${estimate(same, true)} ${POINTS}, p ${probability(same.p)}, ${same.verdict}`,
    );
  for (const [cost, name] of Object.entries(COSTS)) {
    if (!known(variant[cost])) continue;
    const gain = known(variant.gain?.[cost]) && gainText(variant.gain[cost]);
    const parts = [
      cost === "macs" ? si(variant[cost]) : count(variant[cost]),
      extra(variant, cost),
      gain && `${gain} ${POINTS} per 1 %`,
      variant.front.includes(cost) && "on the front",
    ];
    line(name, parts.filter(Boolean).join(", "));
  }
  return el("dl.numbers", lines);
}
function alsoOf(variant) {
  const lines = (told.also ?? []).filter(({ key }) => variant.also[key]).map((how) => {
    const { difference, n, p, p_holm, ...found } = variant.also[how.key];
    const unit = how.unit && ` ${how.unit}`;
    const parts = [`${estimate(found, false, how)}${unit}, ${several(n, REPLICATE)}`];
    if (difference) parts.push(`difference ${estimate(difference, true, how)}, ${several(difference.n, "pair")}`);
    if (known(p)) parts.push(`p ${probability(p)}, corrected ${probability(p_holm)}`);
    return [el("dt", how.key), el("dd", parts.join("; "))];
  });
  for (const [name, { seeds, val, test }] of Object.entries(variant.ensembles ?? {})) {
    const parts = [known(val) && `validation ${written(val)}`, `test ${written(test)}`].filter(Boolean);
    const where = name ? ` on ${name}` : "";
    lines.push([el("dt", `ensemble of ${seeds}${where}`), el("dd", `${parts.join(", ")} ${metric.unit}`)]);
  }
  return lines.length ? el("dl.numbers", lines) : null;
}
const named = (point) => `seed ${point.seed}${known(point.fold) ? ` fold ${point.fold}` : ""}`;
function seedTable(points) {
  const columns = [
    ["seed", (point) => point.seed],
    ["fold", (point) => point.fold],
    [metric.words, (point) => written(point.accuracy)],
    ["validation", (point) => written(point.val_accuracy)],
    ["best epoch", (point) => point.best_epoch],
    ["epochs", (point) => point.epochs],
    ["minutes", (point) => point.minutes?.toFixed(1)],
    ["McNemar p", (point) => probability(point.mcnemar_p)],
    ["device", (point) => [point.device, point.host].filter(Boolean).join(", "), "left"],
    ["code", (point) => point.code && el("code", point.code), "left"],
    ["folder", (point) => el("code", point.name), "left"],
  ];
  return tableOf(columns, points);
}
function tableOf(columns, items) {
  const filled = columns.filter(([, cell]) =>
    items.some((item) => {
      const found = cell(item);
      return known(found) && found !== "" && found !== false;
    }),
  );
  if (!filled.length || !items.length) return null;
  return el(
    "div.scroll",
    el(
      "table",
      el("thead", el("tr", filled.map(([name, , kind]) => el("th", { scope: "col", class: kind }, name)))),
      el("tbody", items.map((item) => el("tr", filled.map(([, cell, kind]) => el("td", { class: kind }, cell(item)))))),
    ),
  );
}
function pictures(points) {
  const found = points.flatMap((point) =>
    (point.pictures ?? []).filter((source) => source.startsWith("data:image/")).map((source) => [named(point), source]),
  );
  if (!found.length) return null;
  return el(
    "div.pictures",
    found.map(([name, source]) =>
      el(
        "figure",
        el("img", { src: source, alt: `where the gates look, ${name}` }),
        el("figcaption", name),
      ),
    ),
  );
}
function commands(points) {
  const lines = points.flatMap((point) =>
    [["train again", point.command], ["repeat and compare", point.repro]]
      .filter(([, command]) => command)
      .map(([words, command]) => {
        const what = `${named(point)}, ${words}`;
        return [el("span", what), el("code", { tabindex: 0 }, command), copyButton(command, `the command: ${what}`)];
      }),
  );
  return lines.length ? el("div.commands", lines) : null;
}
function logs(points) {
  const found = points
    .filter((point) => point.log)
    .map((point) =>
      el("details", el("summary", `${named(point)}, last lines of log.txt`), el("pre", { tabindex: 0 }, point.log)),
    );
  return found.length ? found : null;
}
function configuration(config) {
  if (!config || !Object.keys(config).length) return null;
  const marked = [];
  const tree = configTree(config, "", marked);
  const words = marked.length
    ? `${several(marked.length, "setting")}, marked, ${marked.length === 1 ? "is" : "are"} not the same in all variants`
    : "the same in all variants";
  return el("details", el("summary", words), el("div.config", tree));
}
function configTree(config, above, marked) {
  return el(
    "ul",
    Object.entries(config).map(([key, value]) => {
      const path = above + key;
      if (value && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length) {
        return el("li", el("span.key", `${key}:`), configTree(value, `${path}.`, marked));
      }
      const text = typeof value === "string" ? value : JSON.stringify(value);
      if (!varying.has(path)) return el("li", el("span.key", `${key}: `), text);
      marked.push(path);
      return el("li", el("mark", `${key}: ${text}`));
    }),
  );
}

// ---- charts ----

function curves(points) {
  const drawn = points.filter((point) => point.curve?.epoch?.length);
  const place = (name) => (CURVES.indexOf(name) + 1 || Infinity);
  const names = [...new Set(drawn.flatMap((point) => Object.keys(point.curve)))].filter((name) => name !== "epoch");
  names.sort((a, b) => place(a) - place(b) || order.compare(a, b));
  const charts = names
    .map((name) =>
      chart(name, drawn.filter((point) => point.curve[name]), drawn),
    )
    .filter(Boolean);
  if (!charts.length) return null;
  const legend = drawn.map((point, i) =>
    el(
      "span",
      svg(
        "svg",
        { width: 26, height: 8, "aria-hidden": "true" },
        svg("path", { d: "M0 4H26", ...inkOf(i), "stroke-width": 2 }),
      ),
      named(point),
    ),
  );
  const dot = names.includes("val/accuracy") && el("span", "● best epoch");
  return [el("div.charts", charts), el("p.legend", legend, dot)];
}
const inkOf = (i) => ({ stroke: INKS[i % INKS.length], "stroke-dasharray": DASHES[i % DASHES.length] || null });

function chart(name, points, all) {
  const [width, height, left, right, top, bottom] = [400, 220, 42, 6, 8, 34];
  const ys = points.flatMap((point) => point.curve[name]).filter(known);
  const xs = points.flatMap((point) => point.curve.epoch);
  if (!ys.length) return null;
  const share = SHARES.some((ending) => name.endsWith(ending));
  const yTicks = ticks(smallest(ys), largest(ys), 5);
  const xTicks = ticks(smallest(xs), largest(xs), 6).filter(
    (tick) => Number.isInteger(tick) && tick >= smallest(xs) && tick <= largest(xs),
  );
  const scale = (low, high, from, to) => (value) =>
    from + (to - from) * (high > low ? (value - low) / (high - low) : 0.5);
  const x = scale(smallest(xs), largest(xs), left, width - right);
  const y = scale(yTicks[0], yTicks.at(-1), height - bottom, top);
  const step = yTicks.length > 1 ? yTicks[1] - yTicks[0] : 1;
  const digits = Math.max(0, -Math.floor(Math.log10(share ? 100 * step : step) + 1e-9));
  const grid = yTicks.map((tick) => [
    svg("path.grid", { d: `M${left} ${y(tick)}H${width - right}` }),
    svg(
      "text",
      { x: left - 6, y: y(tick) + 4, "text-anchor": "end" },
      minus((share ? 100 * tick : tick).toFixed(digits)),
    ),
  ]);
  const epochs = xTicks.map((tick) =>
    svg("text", { x: x(tick), y: height - bottom + 15, "text-anchor": "middle" }, String(tick)),
  );
  const lines = points.map((point) => {
    const ink = inkOf(all.indexOf(point));
    const best = name === "val/accuracy" ? point.curve.epoch.indexOf(point.best_epoch) : -1;
    return [
      svg(
        "path.line",
        { d: path(point.curve.epoch, point.curve[name], x, y), ...ink },
        svg("title", named(point)),
      ),
      best >= 0 &&
        known(point.curve[name][best]) &&
        svg("circle", { cx: x(point.best_epoch), cy: y(point.curve[name][best]), r: 3, fill: ink.stroke }),
    ];
  });
  return el(
    "figure.chart",
    el("figcaption", share ? `${name}, %` : name),
    svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name} by epoch, a line a ${REPLICATE}` },
      grid,
      epochs,
      svg("text", { x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, "epoch"),
      lines,
    ),
  );
}
function path(xs, ys, x, y) {
  let pen = "M";
  return ys
    .map((value, i) => {
      if (!known(value)) {
        pen = "M";
        return "";
      } // a gap where there is no number
      const part = `${pen}${x(xs[i]).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
      return part;
    })
    .join("");
}
function ticks(low, high, wanted) {
  if (!(high > low)) return [low];
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((found) => found >= rough);
  const found = [];
  for (let i = Math.floor(low / step + 1e-9); i <= Math.ceil(high / step - 1e-9); i++)
    found.push(Number((i * step).toPrecision(12)));
  return found;
}
const smallest = (values) => values.reduce((a, b) => Math.min(a, b));
const largest = (values) => values.reduce((a, b) => Math.max(a, b));

// ---- factors, interactions ----

function among(found) {
  return [
    `p ${probability(found.p_holm) || "unknown"}`,
    known(found.p) && `uncorrected ${probability(found.p)}`,
    found.among && `among ${found.among}`,
  ]
    .filter(Boolean)
    .join(", ");
}
function factorTable(found) {
  const limit = niceAbove(
    Math.max(
      0.001,
      ...found.levels.map(
        (level) => Math.abs(level.effect) + Math.min(level.effect_half_width ?? 0, 2 * Math.abs(level.effect) + 0.01),
      ),
    ),
  );
  const decided = (level) => known(level.effect_half_width) && Math.abs(level.effect) > level.effect_half_width;
  const kind = (level) => (decided(level) ? (level.effect > 0 !== metric.lower ? "better" : "worse") : "undecided");
  const effect = (level) => ({ mean: level.effect, half_width: level.effect_half_width });
  const columns = [
    [found.factor, (level) => level.level, "left wrap"],
    [head, (level) => estimate({ mean: level.mean, half_width: level.half_width })],
    [
      "effect",
      (level) => el("span.with-mark", estimate(effect(level), true), forest(effect(level), kind(level), limit, 80)),
    ],
    ["n", (level) => level.n],
  ];
  return el("div", el("h3", found.factor, el("small", among(found))), tableOf(columns, found.levels));
}
function interactionTable(found) {
  const title = el("h3", found.factors.join(" × "), el("small", among(found)));
  const effect = (cell) => (cell ? estimate({ mean: cell.effect, half_width: cell.half_width }, true) : "");
  if (found.factors.length !== 2) {
    return el(
      "div",
      title,
      tableOf([["levels", (cell) => cell.levels.join(", "), "left wrap"], ["effect", effect]], found.cells),
    );
  }
  const cells = new Map(found.cells.map((cell) => [JSON.stringify(cell.levels), cell]));
  const levels = (i) => [...new Set(found.cells.map((cell) => cell.levels[i]))];
  const columns = levels(1).map((column) => [column, (row) => effect(cells.get(JSON.stringify([row, column])))]);
  return el(
    "div",
    title,
    tableOf([[`${found.factors[0]} \\ ${found.factors[1]}`, (row) => row, "left"], ...columns], levels(0)),
  );
}

// ---- the sections below the leaderboard ----

function addSection(id, title, ...content) {
  document
    .querySelector("main")
    .append(
      el(
        "section",
        { id, "aria-labelledby": `${id}-title` },
        el("h2", { id: `${id}-title`, tabindex: -1 }, title),
        content,
      ),
    );
}
function unfinishedRow(point) {
  return el(
    "tr",
    el("td.left", point.state),
    el("td.left.wrap", el("code", point.name)),
    el(
      "td.left.wrap",
      point.error && el("div.error", point.error),
      point.log && el("details", el("summary", "last lines of log.txt"), el("pre", { tabindex: 0 }, point.log)),
    ),
  );
}
function unfinishedTable(most = 50) {
  const heads = ["state", "point", "error"].map((name) => el("th", { scope: "col", class: "left" }, name));
  const body = el("tbody", told.unfinished.slice(0, most).map(unfinishedRow));
  const rest = told.unfinished.slice(most);
  const button =
    rest.length &&
    el(
      "button",
      {
        type: "button",
        click: () => {
          body.append(...rest.map(unfinishedRow));
          button.remove();
        },
      },
      `show ${count(rest.length)} more`,
    );
  return [el("div.scroll", el("table", el("thead", el("tr", heads)), body)), button || null];
}
function figureOf(figure) {
  const drawing = el("div.scroll", { tabindex: 0, role: "group", "aria-label": figure.title });
  drawing.innerHTML = figure.svg; // attnlab's own drawing
  if (figure.alt) drawing.firstElementChild.setAttribute("aria-label", figure.alt);
  if (figure.alt) drawing.firstElementChild.setAttribute("role", "img");
  const size = drawing.querySelector("svg")?.viewBox.baseVal;
  if (size) drawing.firstElementChild.style.maxWidth = `${1.4 * size.width}px`; // its words as large as the page's
  const links = ["svg", "pdf", "png"].flatMap((kind) => [
    " ",
    el("a", { href: `figures${suffix}/${encodeURIComponent(figure.name)}.${kind}` }, kind.toUpperCase()),
  ]);
  const wide = size && size.width > 1.9 * size.height;
  return el("figure", { class: wide && "wide" }, el("figcaption", el("b", figure.title), figure.how, links), drawing);
}
function showSections() {
  const tables = told.tables.map(factorTable);
  if (tables.length) {
    addSection(
      "factors",
      "Factors",
      el(
        "p",
        `What a level does to the ${metric.words}, in ${metric.difference} from the mean of its table; ` +
          "p is corrected (Holm). A filled mark: the interval excludes zero.",
      ),
      el("div.tables", tables),
    );
  }
  const interactions = told.interactions.map(interactionTable);
  if (interactions.length) {
    addSection(
      "interactions",
      "Interactions",
      el("p", `What two levels do together beyond the sum of what each does, in ${metric.difference}.`),
      el("div.tables", interactions),
    );
  }
  if (told.figures.length) addSection("figures", "Figures", el("div.figures", told.figures.map(figureOf)));
  if (told.unfinished.length) addSection("unfinished", "Unfinished points", unfinishedTable());
  if (told.methods)
    addSection("methods", "Methods", el("p", told.methods), el("p", copyButton(told.methods, "the methods paragraph")));
  if (told.notes.length)
    addSection("notes", "Notes", el("ul", told.notes.map((note) => el("li", note))));
}
function showLinks() {
  const links = [...document.querySelectorAll("main > section:not([hidden])")].map((found) => {
    const title = found.querySelector("h2");
    return el(
      "a",
      {
        href: `#${found.id}`,
        click: (event) => {
          event.preventDefault(); // the address keeps what the leaderboard shows
          title.scrollIntoView();
          title.focus({ preventScroll: true });
        },
      },
      title.textContent,
    );
  });
  byId("sections").append(...links);
}

// ---- start ----

readState();
showHead();
showTools();
showAll();
if (told.search) showSearch();
showSections();
showLinks();
showOpen();

byId("more")
  .querySelector("button")
  .addEventListener("click", () => makeRows(Infinity));
new IntersectionObserver(
  ([seen]) => {
    if (seen.isIntersecting) makeRows(made + ROWS_AT_ONCE);
  },
  { rootMargin: "600px" },
).observe(byId("more"));
const box = document.querySelector(".box");
const sizes = new ResizeObserver(() => {
  // a head that sticks to the window needs a table that does not scroll in a box
  box.classList.toggle("fits", byId("board").offsetWidth <= box.clientWidth);
});
sizes.observe(box);
sizes.observe(byId("board"));
addEventListener("beforeprint", () => makeRows(Infinity));
addEventListener("hashchange", () => {
  if (location.hash && !location.hash.includes("=")) return; // a place in the page
  readState();
  showAll();
  showOpen();
});
