// What the page does beyond its links and forms: local times, keys, entries opened in place, names to choose from.
// It needs nothing of this to be whole.
"use strict";

const one = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Times in the reader's zone, beside UTC.
const pad = (number) => String(number).padStart(2, "0");
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const clock = (date) => `${pad(date.getHours())}:${pad(date.getMinutes())}`;
const dayOf = (date) => `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
const local = (date) => `${dayOf(date)} ${clock(date)}:${pad(date.getSeconds())}`;
const isElsewhere = new Date().getTimezoneOffset() !== 0;

function localise(within) {
  for (const link of all("a.when[data-tip]", within)) {
    const time = one("time", link);
    const date = new Date(time.dateTime);
    // The days are UTC: where the reader's date is another one, that is said.
    const shift = Math.sign(dayOf(date).localeCompare(date.toISOString().slice(0, 10)));
    time.textContent = clock(date) + (shift ? (shift > 0 ? " +1 day" : " −1 day") : "");
    if (isElsewhere) link.dataset.tip = `${local(date)} ${zone}\n${link.dataset.tip}`;
  }
  for (const time of all("time.exact", within)) {
    if (isElsewhere) time.textContent += ` (${local(new Date(time.dateTime))} ${zone})`;
  }
}

function tellAges() {
  for (const link of all("a.when")) {
    const minutes = Math.floor((Date.now() - new Date(one("time", link).dateTime)) / 60000);
    const [number, unit] = minutes < 60 ? [minutes, "minute"] : [Math.floor(minutes / 60), "hour"];
    if (minutes < 0 || minutes >= 1440) continue;
    one(".age", link).textContent = number ? `${number} ${unit}${number > 1 ? "s" : ""} ago` : "just now";
  }
}

localise(document);
if (isElsewhere && one(".zone")) {
  one(".zone").textContent = `Times are ${zone}, days are UTC; point at a time for both.`;
}
setInterval(tellAges, 60000);

// An entry opens in its place; the link leads to its own page for whoever wants that.
async function toggle(line) {
  const link = one("a.when", line);
  const open = one(".detail", line);
  if (open) {
    open.remove();
    line.classList.remove("open");
    link.setAttribute("aria-expanded", "false");
    return;
  }
  const answer = await fetch(link.href, { headers: { Accept: "text/html" } }).catch(() => null);
  if (!answer || !answer.ok || answer.redirected) {
    location.href = link.href;
    return;
  }
  const found = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("article.entry");
  if (!found || one(".detail", line)) return;
  const detail = document.createElement("div");
  detail.className = "detail";
  detail.append(document.importNode(found, true));
  line.append(detail);
  line.classList.add("open");
  link.setAttribute("aria-expanded", "true");
  offerCopies(detail);
}

for (const link of all(".line > a.when")) link.setAttribute("aria-expanded", "false");

document.addEventListener("click", (event) => {
  const link = event.target.closest(".line > a.when");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  toggle(link.parentElement);
});

function offerCopies(within) {
  if (!navigator.clipboard) return;
  for (const link of all("a.json", within)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy as JSON";
    button.addEventListener("click", async () => {
      const answer = await fetch(link.href).catch(() => null);
      if (!answer || !answer.ok) return;
      await navigator.clipboard.writeText(await answer.text());
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy as JSON"; }, 2000);
    });
    link.parentElement.append(" ", button);
  }
}
offerCopies(document);

// The days of the histogram: one stop for the tab key, arrows between them.
const bars = all(".histogram svg a");
if (bars.length) {
  let current = bars.length - 1;
  bars[current].setAttribute("tabindex", "0");
  one(".histogram svg").addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: bars.length - 1 };
    const next = steps[event.key];
    if (next === undefined) return;
    event.preventDefault();
    bars[current].setAttribute("tabindex", "-1");
    current = Math.max(0, Math.min(bars.length - 1, next));
    bars[current].setAttribute("tabindex", "0");
    bars[current].focus();
  });
}

// Names for the user field, fetched when somebody wants them; a name chosen from them is looked for by its id.
const user = one("#user[data-people]");
if (user) {
  const people = new Map();
  user.addEventListener("focus", async () => {
    const answer = await fetch(user.dataset.people).catch(() => null);
    if (!answer || !answer.ok) return;
    const found = new DOMParser().parseFromString(await answer.text(), "text/html");
    const list = document.createElement("datalist");
    list.id = "people";
    for (const item of all("li[data-id]", found)) {
      const { id, name } = item.dataset;
      people.set(name, people.has(name) ? null : id);
      const option = document.createElement("option");
      option.value = name;
      list.append(option);
    }
    user.after(list);
    user.setAttribute("list", "people");
  }, { once: true });
  user.form.addEventListener("submit", () => {
    const id = people.get(user.value);
    if (!id) return;
    all('input[name="performer_id"]', user.form).forEach((input) => input.remove());
    const hidden = document.createElement("input");
    hidden.type = "hidden";
    hidden.name = "performer_id";
    hidden.value = id;
    user.form.append(hidden);
    user.disabled = true;
  });
}
// Empty fields need not stand in the address.
for (const form of all("form.filters")) {
  form.addEventListener("submit", () => {
    for (const field of form.elements) {
      if (field.name && (!field.value || (field.name === "days" && field.value === "90"))) field.disabled = true;
    }
  });
  addEventListener("pageshow", () => { for (const field of form.elements) field.disabled = false; });
}

// Keys. Single letters can be turned off (WCAG 2.1.4), and do nothing while somebody writes.
const help = one("dialog#keys");
const remembered = "daybook-keys";
const recall = () => { try { return localStorage.getItem(remembered); } catch { return null; } };
let keysAreOn = recall() !== "off";

if (help) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "keys-button";
  button.textContent = "Keyboard";
  button.addEventListener("click", () => help.showModal());
  const title = one(".title");
  if (title) title.append(button);
  const box = one("#keys-on");
  box.checked = keysAreOn;
  box.addEventListener("change", () => {
    keysAreOn = box.checked;
    try { localStorage.setItem(remembered, keysAreOn ? "on" : "off"); } catch { /* it holds for this page then */ }
  });
}

function move(step) {
  const links = all(".line > a.when");
  const at = links.findIndex((link) => link.parentElement.contains(document.activeElement));
  const next = links[at < 0 ? 0 : Math.max(0, Math.min(links.length - 1, at + step))];
  if (next) {
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  }
}

document.addEventListener("keydown", (event) => {
  const field = event.target.closest("input, select, textarea, [contenteditable]");
  if (event.key === "Escape") {
    if (field) field.blur();
    const line = document.activeElement.closest(".line.open");
    if (line && !(help && help.open)) {
      toggle(line);
      one("a.when", line).focus();
    }
    return;
  }
  if (!keysAreOn || field || event.ctrlKey || event.metaKey || event.altKey || (help && help.open)) return;
  const actions = {
    "/": () => one("#q") && one("#q").focus(),
    j: () => move(1),
    k: () => move(-1),
    "?": () => help && help.showModal(),
  };
  const action = Object.hasOwn(actions, event.key) && actions[event.key];
  if (action) {
    event.preventDefault();
    action();
  }
});
