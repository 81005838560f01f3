"use strict";

const told = JSON.parse(document.getElementById("told").textContent);
const AT_ONCE = 24; // images
const byId = (id) => document.getElementById(id);
const known = (value) => value !== null && value !== undefined && value !== false;

// el("p.lead", { id: "said" }, "words", child): text goes in as text, never as markup; functions listen
function el(words, ...rest) {
  const [tag, ...classes] = words.split(".");
  const node = document.createElement(tag);
  node.classList.add(...classes);
  const attributes = rest[0]?.constructor === Object ? rest.shift() : {};
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (known(value)) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...rest.flat(2).filter((child) => known(child) && child !== ""));
  return node;
}

// ---- what is right ----

const images = told.images.map((image, index) => ({ ...image, index }));
const isKnown = images.some((image) => image.truth !== null);
const isRight = (image, which = 0) => image.truth === image.seen[which].predicted;
const percent = (share) => `${(100 * share).toFixed(share > 0.995 || share < 0.1 ? 1 : 0)} %`;
const className = (label) => told.classes[label];

// ---- maps: numbers 0 .. 255 become colours that lie on the image ----

const PALETTES = told.palettes.map((text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
function paint(map, signed, words) {
  const canvas = el("canvas", { width: map.width, height: map.height, role: "img", "aria-label": words });
  const values = atob(map.values);
  const palette = PALETTES[signed ? 1 : 0];
  const pixels = new ImageData(map.width, map.height);
  for (let i = 0; i < values.length; i += 1) {
    pixels.data.set(palette.subarray(4 * values.charCodeAt(i), 4 * values.charCodeAt(i) + 4), 4 * i);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

function tile(image, head, words, map, signed) {
  const shown = el("img", { src: image.pixels, alt: map ? "" : `the image ${image.name}` });
  const stack = el("span.stack", { style: `aspect-ratio: ${image.width} / ${image.height}` }, shown);
  if (map) stack.append(paint(map, signed, `${head}, ${words}, on the image ${image.name}`));
  return el("figure.tile", stack, el("figcaption", el("b", head), words));
}

// ---- the filters ----

const options = (pairs) => pairs.map(([value, words]) => el("option", { value }, words));
const field = (label, name, control) => {
  control.id = control.name = name;
  return el("div.field", el("label", { for: name }, label), control);
};
const among = [...new Set(images.flatMap((image) => [image.truth, ...image.seen.map((s) => s.predicted)]))]
  .filter((label) => label !== null)
  .sort((a, b) => a - b);
const several = told.networks.length > 1;
const sites = [...new Set(told.networks.flatMap((network) => network.sites.map((site) => site.name)))];
const tools = byId("tools");
tools.append(
  field("words in name or class", "words", el("input", { type: "search" })),
  field("class, or answer", "class", el("select", options([["", "all"], ...among.map((l) => [l, className(l)])]))),
  ...(isKnown || several
    ? [
        field(
          "answers",
          "answer",
          el(
            "select",
            options([
              ["", "all"],
              ...(isKnown ? [["right", "right"], ["wrong", "wrong"]] : []),
              ...(several ? [["differ", "networks differ"]] : []),
              ...(several && isKnown
                ? [["first", `only ${told.networks[0].name} right`], ["second", `only ${told.networks[1].name} right`]]
                : []),
            ]),
          ),
        ),
      ]
    : []),
  el(
    "fieldset",
    el("legend", "confidence, %"),
    el("input", { type: "number", id: "least", name: "least", min: 0, max: 100, "aria-label": "confidence from", placeholder: 0 }),
    "to",
    el("input", { type: "number", id: "most", name: "most", min: 0, max: 100, "aria-label": "confidence to", placeholder: 100 }),
  ),
  field("order", "order", el("select", options([["", "as chosen"], ["low", "least sure first"], ["high", "surest first"]]))),
  ...(sites.length
    ? [field("gates", "site", el("select", options([["", "all sites"], ["none", "none"], ...sites.map((s) => [s, s])])))]
    : []),
  ...(told.methods.length
    ? [
        field(
          "maps of a class",
          "method",
          el("select", options([["", "all methods"], ["none", "none"], ...told.methods.map((m) => [m.id, m.name])])),
        ),
      ]
    : []),
  field("strength of the maps", "over", el("input", { type: "range", min: 0, max: 100, value: 100 })),
);

const DISPLAY = ["site", "method", "over", "order"]; // what is no filter
const asked = () => Object.fromEntries([...new FormData(tools)].map(([name, value]) => [name, String(value)]));
function fits(image, want) {
  const { predicted, confidence } = image.seen[0];
  const text = [image.name, className(predicted), image.truth === null ? "" : className(image.truth)].join(" ").toLowerCase();
  if (!want.words.toLowerCase().split(/\s+/).every((word) => text.includes(word))) return false;
  if (want.class !== "" && ![image.truth, ...image.seen.map((s) => s.predicted)].includes(Number(want.class))) return false;
  if (want.answer === "right" || want.answer === "wrong") {
    if (image.truth === null || isRight(image) !== (want.answer === "right")) return false;
  }
  if (want.answer === "differ" && image.seen.every((seen) => seen.predicted === predicted)) return false;
  if (want.answer === "first" && !(isRight(image) && !isRight(image, 1))) return false;
  if (want.answer === "second" && !(!isRight(image) && isRight(image, 1))) return false;
  if (want.least !== "" && 100 * confidence < Number(want.least)) return false;
  return want.most === "" || 100 * confidence <= Number(want.most);
}

// ---- the images ----

function answer(image, which) {
  const { predicted, confidence } = image.seen[which];
  const judged = image.truth === null ? "" : isRight(image, which) ? "right" : "wrong";
  return el(
    "p",
    several && el("b", told.networks[which].name),
    "says ",
    el("strong", className(predicted)),
    el("br"),
    el(judged ? `span.${judged}` : "span", el("span.bar", { "aria-hidden": "true" }, el("i", { style: `width: ${100 * confidence}%` }))),
    ` ${percent(confidence)}`,
    judged && el("br"),
    judged && el(`span.${judged}`, judged === "right" ? "✓ right" : "✗ wrong"),
  );
}

function row(image, which, want) {
  const network = told.networks[which];
  const seen = image.seen[which];
  const aligned = 1 + sites.length + told.methods.length <= 10; // as many stand in a line
  const spacer = (words = "") => (aligned || words ? el("p.tile.spacer", words && el("small", words)) : null);
  const tiles = [which ? spacer() : tile(image, "image", `${image.width} × ${image.height}`)];
  let toldSo = false;
  for (const name of want.site === "none" ? [] : sites.filter((site) => !want.site || want.site === site)) {
    const i = network.sites.findIndex((site) => site.name === name);
    if (i < 0) {
      tiles.push(spacer(toldSo ? "" : network.sites.length ? "no such site" : "no attention, so no gates"));
      toldSo = !network.sites.length;
    } else tiles.push(tile(image, name, `${network.sites[i].what} ${seen.maps[i].low} to ${seen.maps[i].high}`, seen.maps[i]));
  }
  for (const method of told.methods) {
    if (want.method && want.method !== method.id) continue;
    const map = seen.cams[method.id];
    const words = `${map.found ? "for" : "finds nothing for"} ${className(image.asked)}`;
    tiles.push(tile(image, method.name, words, map, method.signed));
  }
  return el("div.row", answer(image, which), el("div.tiles", tiles));
}

function card(image, want) {
  const truth = image.truth === null ? null : el("b", className(image.truth));
  return el(
    `article.card${Math.max(image.width, image.height) <= 64 ? ".tiny" : ""}`,
    el("h3", truth, el("span.of", image.name)),
    image.seen.map((seen, which) => row(image, which, want)),
  );
}

let shown = [];
let upTo = 0;
function showMore(most = AT_ONCE) {
  const want = asked();
  byId("cards").append(...shown.slice(upTo, upTo + most).map((image) => card(image, want)));
  upTo = Math.min(shown.length, upTo + most);
  byId("more").hidden = upTo >= shown.length;
}
function show() {
  const want = asked();
  shown = images.filter((image) => fits(image, want));
  if (want.order) {
    const sign = want.order === "low" ? 1 : -1;
    shown.sort((a, b) => sign * (a.seen[0].confidence - b.seen[0].confidence));
  }
  const count = `${images.length} image${images.length === 1 ? "" : "s"}`;
  byId("count").textContent = shown.length === images.length ? `${count}.` : `${shown.length} of ${count}.`;
  byId("reset").hidden = !Object.entries(want).some(([name, value]) => value !== "" && !DISPLAY.includes(name));
  byId("cards").replaceChildren(...(shown.length ? [] : [el("p.empty", "No image is like that.")]));
  upTo = 0;
  showMore();
  const kept = new URLSearchParams(Object.entries(want).filter(([name, value]) => value && !(name === "over" && value === "100")));
  history.replaceState(null, "", String(kept) ? `#${kept}` : location.pathname + location.search);
}
function strength() {
  byId("cards").style.setProperty("--over", byId("over").value / 100);
}

for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
  if (tools.elements[name]) tools.elements[name].value = value;
}
tools.addEventListener("submit", (event) => event.preventDefault());
tools.addEventListener("input", (event) => {
  strength();
  if (event.target.id !== "over") show();
});
byId("over").addEventListener("change", show);
byId("reset").addEventListener("click", () => {
  for (const control of tools.elements) if (control.name && !DISPLAY.includes(control.name)) control.value = "";
  show();
  byId("words").focus();
});
byId("more").firstChild.addEventListener("click", () => {
  const before = byId("cards").children.length;
  showMore();
  const next = byId("cards").children[before]?.querySelector("h3");
  next?.setAttribute("tabindex", "-1");
  next?.focus();
});
addEventListener("beforeprint", () => showMore(Infinity));
strength();
show();
