"use strict";
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const make = (name, text, attributes = {}) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};
const lowered = (text) => text.toLowerCase();

/* --- theme -------------------------------------------------------------------------------------------------------- */
const root = document.documentElement, themeButton = $("#theme");
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemIsDark.matches);
const nameTheme = () => { themeButton.textContent = isDark() ? "Light theme" : "Dark theme"; };
themeButton.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("robharness-theme", root.dataset.theme); } catch { /* kept for this view alone */ }
  nameTheme();
});
systemIsDark.addEventListener("change", nameTheme);
nameTheme();
themeButton.hidden = false;

/* --- tables: sorting ---------------------------------------------------------------------------------------------- */
const numberOf = (entry) => ("value" in entry.dataset ? Number(entry.dataset.value) : NaN);
const collator = new Intl.Collator("en", { numeric: true });

function compare(a, b) {
  const bothNumbers = typeof a === "number" && typeof b === "number";
  return bothNumbers ? a - b : collator.compare(String(a), String(b));
}

/** Order rows by a column; entries without a number come last in both directions, equal ones in their own order. */
function sortRows(table, column, direction) {
  const body = table.tBodies[0];
  table.original ??= [...body.rows];
  let rows = [...table.original];
  if (direction) {
    const sign = direction === "ascending" ? 1 : -1;
    const keyed = rows.map((row) => {
      const entry = row.cells[column];
      const number = numberOf(entry);
      const isText = entry.tagName === "TH" || (entry.classList.contains("words"));
      return [row, isText ? entry.textContent.trim() : Number.isNaN(number) ? null : number];
    });
    const known = keyed.filter(([, key]) => key !== null).sort((a, b) => sign * compare(a[1], b[1]));
    rows = [...known, ...keyed.filter(([, key]) => key === null)].map(([row]) => row);
  }
  body.append(...rows);
  table.classList.toggle("sorted", Boolean(direction));
  for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
  if (direction) table.tHead.rows[0].cells[column].setAttribute("aria-sort", direction);
  table.dispatchEvent(new Event("sorted"));
}

function addSorting(table) {
  for (const head of table.tHead.rows[0].cells) {
    const button = make("button", undefined, { type: "button" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const isNumber = [...table.tBodies[0].rows].some((row) => row.cells[head.cellIndex]?.tagName === "TD");
      const [first, second] = isNumber ? ["descending", "ascending"] : ["ascending", "descending"];
      const now = head.getAttribute("aria-sort");
      sortRows(table, head.cellIndex, now === first ? second : now === second ? null : first);
    });
  }
}

/* --- tables of models and perturbations --------------------------------------------------------------------------- */
/** A table whose rows are perturbations or models: its entries are moved, never made anew. */
class Matrix {
  constructor(table) {
    this.table = table;
    this.corner = table.tHead.rows[0].cells[0].textContent;
    const heads = [...table.tHead.rows[0].cells].slice(1);
    this.models = heads.map((head) => ({ name: head.textContent, m: head.dataset.m, text: lowered(head.textContent) }));
    this.rows = [...table.tBodies[0].rows].map((row) => ({
      name: row.cells[0].textContent, kind: row.dataset.kind, text: lowered(row.cells[0].textContent),
      isRuled: row.classList.contains("rule"), entries: [...row.cells].slice(1),
    }));
    this.kinds = new Set(this.rows.map((row) => row.kind).filter(Boolean));
    this.byModel = false;
    this.filters = {};
    addSorting(table);
  }

  /** Build the table with models as rows, or with perturbations. */
  turn(byModel) {
    this.byModel = byModel;
    const [across, down] = byModel ? [this.rows, this.models] : [this.models, this.rows];
    const head = make("tr");
    head.append(make("th", byModel ? "Model" : this.corner, { scope: "col" }));
    head.append(...across.map((each) => make("th", each.name, { scope: "col" })));
    this.table.tHead.replaceChildren(head);
    const rows = down.map((each, i) => {
      const row = make("tr");
      if (!byModel && each.isRuled) row.className = "rule";
      row.append(make("th", each.name, { scope: "row" }));
      row.append(...(byModel ? this.rows.map((other) => other.entries[i]) : each.entries));
      return row;
    });
    this.table.tBodies[0].replaceChildren(...rows);
    this.table.original = rows;
    this.table.classList.remove("sorted");
    addSorting(this.table);
    this.filter(this.filters);
  }

  /** Show the rows and columns with an entry that matches; return the number of matching entries and of all. */
  filter(filters) {
    this.filters = filters;
    const { model = "", kind = "", words = [] } = filters;
    const models = this.models.map(() => false), rows = this.rows.map(() => false);
    let count = 0, all = 0;
    this.rows.forEach((row, i) => {
      this.models.forEach((each, j) => {
        const isNumber = "value" in row.entries[j].dataset;
        all += isNumber;
        if (model !== "" && each.m !== model) return;
        if (kind && row.kind !== kind && (row.kind || (this.kinds.size && !this.kinds.has(kind)))) return;
        if (!words.every((word) => row.text.includes(word) || each.text.includes(word))) return;
        models[j] = rows[i] = true;
        count += isNumber;
      });
    });
    this.rows.forEach((row, i) => row.entries.forEach((entry, j) => { entry.hidden = !(rows[i] && models[j]); }));
    const [across, down] = this.byModel ? [rows, models] : [models, rows];
    [...this.table.tHead.rows[0].cells].slice(1).forEach((head, i) => { head.hidden = !across[i]; });
    (this.table.original ?? [...this.table.tBodies[0].rows]).forEach((row, i) => { row.hidden = !down[i]; });
    const isEmpty = !rows.some(Boolean);
    const scroller = this.table.closest(".scroller");
    scroller.hidden = isEmpty;
    if (scroller.previousElementSibling?.tagName === "H3") scroller.previousElementSibling.hidden = isEmpty;
    return [count, all];
  }
}

/** A table with a row per cell, or per model and perturbation; the first rows are shown, and the others on demand. */
class Rows {
  constructor(table) {
    this.table = table;
    this.limit = 200;
    table.original = [...table.tBodies[0].rows];
    this.rows = table.original.map((row) => ({
      row, m: row.dataset.m, kind: row.dataset.kind,
      text: lowered(`${row.cells[0].textContent} ${row.cells[1].textContent} ${row.cells[row.cells.length - 1].textContent}`),
    }));
    this.more = make("button", "Show all rows", { type: "button", class: "more" });
    this.more.addEventListener("click", () => { this.limit = Infinity; this.showFirst(); });
    table.closest(".scroller").after(this.more);
    table.addEventListener("sorted", () => this.showFirst());
    addSorting(table);
  }

  filter({ model = "", kind = "", words = [] }) {
    let count = 0;
    for (const each of this.rows) {
      const isShown = (model === "" || each.m === model) && (!kind || each.kind === kind)
        && words.every((word) => each.text.includes(word));
      each.row.hidden = !isShown;
      count += isShown;
    }
    this.showFirst();
    return [count, this.rows.length];
  }

  showFirst() {
    let count = 0;
    for (const row of this.table.tBodies[0].rows) {
      if (!row.hidden) row.classList.toggle("later", ++count > this.limit);
    }
    this.more.hidden = count <= this.limit;
    this.more.textContent = `Show all ${count} rows`;
  }
}

const tables = new Map();
for (const table of $$("table")) {
  const made = table.classList.contains("matrix") ? new Matrix(table) : new Rows(table);
  tables.set(table.dataset.in, [...(tables.get(table.dataset.in) ?? []), made]);
}

for (const controls of $$("[data-filters]")) {
  const own = tables.get(controls.dataset.filters) ?? [];
  const count = $("[data-count]", controls);
  const apply = () => {
    const filters = {};
    for (const input of $$("[data-filter]", controls)) filters[input.dataset.filter] = input.value;
    filters.words = lowered(filters.text ?? "").split(/\s+/).filter(Boolean);
    const counts = own.map((table) => table.filter(filters));
    const [some, all] = counts.reduce(([a, b], [c, d]) => [a + c, b + d], [0, 0]);
    count.textContent = `${some} of ${all} ${count.dataset.count}`;
  };
  controls.addEventListener("input", apply);
  for (const button of $$("[data-rows]", controls)) {
    button.addEventListener("click", () => {
      for (const each of $$("[data-rows]", controls)) each.setAttribute("aria-pressed", String(each === button));
      for (const table of own) table.turn(button.dataset.rows === "models");
    });
  }
  controls.hidden = false;
  apply();
}
for (const hint of $$(".hint")) hint.hidden = false;

/* --- moving between numbers by arrow keys: a table is one stop of the tab key --------------------------------------- */
for (const table of $$("table")) {
  const links = $$("td a, tbody th a", table);
  for (const link of links.slice(1)) link.tabIndex = -1;
  table.addEventListener("focusin", ({ target }) => {
    if (!target.matches("td a, tbody th a")) return;
    for (const link of $$('a[tabindex="0"], a:not([tabindex])', table)) link.tabIndex = -1;
    target.tabIndex = 0;
  });
  table.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const from = event.target.closest("td, tbody th");
    if (!step || !from) return;
    event.preventDefault();
    let row = from.parentElement, column = from.cellIndex;
    for (;;) {
      if (step[0]) row = step[0] < 0 ? row.previousElementSibling : row.nextElementSibling;
      column += step[1];
      const link = row?.cells[column] && $("a", row.cells[column]);
      if (!row || column < 0 || column >= row.cells.length) return;
      if (link && link.offsetParent) return void link.focus();
    }
  });
}

/* --- details of a cell -------------------------------------------------------------------------------------------- */
const dialog = $("#details"), content = $("#details-content");
let data;

function describe(value) {
  if (value === null || typeof value !== "object") {
    return document.createTextNode(value === null ? "–" : value === true ? "yes" : value === false ? "no" : String(value));
  }
  if (Array.isArray(value)) {
    const isPlain = value.every((each) => each === null || typeof each !== "object");
    if (isPlain && value.every((each) => String(each).length < 20)) return document.createTextNode(value.join(", ") || "–");
    const list = make("div");
    for (const each of value) { const line = make("div"); line.append(describe(each)); list.append(line); }
    return list;
  }
  const list = make("dl");
  for (const [key, each] of Object.entries(value)) {
    const pair = make("div"), term = make("dt", key), text = make("dd");
    text.append(describe(each));
    pair.append(term, text);
    list.append(pair);
  }
  return list;
}

function showDetails(at) {
  data ??= JSON.parse($("#data").textContent);
  const row = document.getElementById(`c${at}`), cell = data.cells[at];
  if (!row || !cell) return;
  const heads = $$("#cell-table thead th").map((head) => head.textContent);
  $("#details-heading").textContent = `${row.cells[0].textContent}, ${row.cells[1].textContent}`;
  const numbers = {};
  heads.forEach((head, i) => { if (i > 1 && i < heads.length - 1) numbers[head] = row.cells[i].textContent; });
  const identity = {};
  for (const [name, place] of Object.entries(cell.identity)) identity[name] = data.pool[place];
  content.replaceChildren(make("h3", "Numbers"), describe(numbers));
  const add = (heading, value) => content.append(make("h3", heading), describe(value));
  if (Object.keys(cell.facts).length) add("More", cell.facts);
  add("Key", cell.key || "–");
  if (Object.keys(identity).length) add("Identity: everything that can change the outcomes", identity);
  cell.environments.forEach((number) => add(`Environment ${number + 1}`, data.environments[number]));
  dialog.showModal();
  content.scrollTop = 0;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#c"]');
  const at = link && /^#c(\d+)$/.exec(link.getAttribute("href"))?.[1];
  if (!dialog || at === undefined || at === null || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  showDetails(Number(at));
});
if (dialog) {
  $("#close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
}

/* --- gallery ------------------------------------------------------------------------------------------------------ */
const gallery = $("[data-gallery]");
if (gallery) {
  const examples = $$(".gallery > li"), count = $("[data-count]", gallery);
  const apply = () => {
    const wanted = {};
    for (const input of $$("[data-filter]", gallery)) wanted[input.dataset.filter] = input.value;
    let shown = 0;
    for (const example of examples) {
      const margin = Number(example.dataset.margin);
      const isShown = ["model", "perturbation", "label", "fooled"].every((name) => wanted[name] === "" || example.dataset[name] === wanted[name])
        && (wanted.low === "" || margin >= Number(wanted.low)) && (wanted.high === "" || margin <= Number(wanted.high));
      example.hidden = !isShown;
      shown += isShown;
    }
    count.textContent = `${shown} of ${examples.length} examples`;
  };
  gallery.addEventListener("input", apply);
  gallery.hidden = false;
  apply();
}

/* --- print: everything unfolded, nothing filtered away silently ---------------------------------------------------- */
let opened = [];
const unfold = () => { opened = $$("details:not([open])"); for (const each of opened) each.open = true; };
const fold = () => { for (const each of opened) each.open = false; opened = []; };
addEventListener("beforeprint", unfold);
addEventListener("afterprint", fold);
