"use strict";
(function () {
  const one = (selector, within) => (within || document).querySelector(selector);
  const all = (selector, within) => Array.from((within || document).querySelectorAll(selector));
  const field = one("#q");
  const table = one("#nodes");
  const entries = all("tbody.entry", table);
  const cells = all(".map .cell");
  const words = new Map();
  const names = new Set(["host", "address", "group", "status", "cause", "drift", "stage", "is", "driver", "kernel",
    "docker", "toolkit", "os", "container_runtime", "framework", "application"]);
  const tones = new Set(["ok", "todo", "bad", "unknown"]);
  const trouble = "is:trouble";
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  // --- search ---------------------------------------------------------------------------------------------

  // What a node's own texts are, once it is asked for.
  function said(entry) {
    if (!words.has(entry)) words.set(entry, entry.textContent.toLowerCase());
    return words.get(entry);
  }

  // `-driver:580,"none of" word` as [{not, field, values}].
  function parse(query) {
    const found = [];
    const pattern = /(-?)(?:([a-z_]+):)?((?:"[^"]*"?|[^\s"])+|(?=\s|$))/gi;
    for (const match of query.matchAll(pattern)) {
      if (!match[0]) continue;
      let name = match[2] ? match[2].toLowerCase() : null;
      let rest = match[3];
      if (name && !names.has(name)) {
        rest = name + ":" + rest;
        name = null;
      }
      const values = (rest.match(/(?:"[^"]*"?|[^,"])+/g) || [])
        .map((value) => value.replace(/"/g, "").trim().toLowerCase()).filter(Boolean);
      if (values.length) found.push({ not: match[1] === "-", field: name, values: name ? values : [values.join(",")] });
    }
    return found;
  }

  function holds(entry, term) {
    const have = (name) => (entry.getAttribute("data-f-" + name.replace(/_/g, "-")) || "").toLowerCase().split("\n");
    return term.values.some((value) => {
      if (!term.field) return said(entry).includes(value);
      // host: is a node's name, and the state of its first layer.
      const own = have(term.field === "host" && tones.has(value) ? "host-layer" : term.field);
      const whole = term.field === "status" || term.field === "cause" || term.field === "drift" || tones.has(value);
      return own.some((text) => (whole ? text === value : text !== "" && text.startsWith(value)));
    });
  }

  function shown() {
    return entries.filter((entry) => !entry.hidden);
  }

  function filter() {
    const query = field.value.trim();
    const terms = parse(query);
    let many = 0;
    for (const entry of entries) {
      entry.hidden = !terms.every((term) => holds(entry, term) !== term.not);
      many += entry.hidden ? 0 : 1;
    }
    for (const cell of cells) {
      const entry = document.getElementById("n" + cell.dataset.n);
      cell.classList.toggle("off", entry.hidden);
    }
    const whole = entries.length + (entries.length === 1 ? " node" : " nodes");
    one("#shown").textContent = many === entries.length ? whole : many + " of " + whole;
    one("#none").hidden = many > 0 || entries.length === 0;
    one("#limit").hidden = true;
    one("#trouble").setAttribute("aria-pressed", String((" " + query + " ").includes(" " + trouble + " ")));
    for (const button of all("[data-query][aria-pressed]")) {
      button.setAttribute("aria-pressed", String(terms.some((term) =>
        !term.not && term.field === "status" && button.dataset.query === "status:" + term.values.join(","))));
    }
    for (const select of all(".toolbar select")) {
      select.value = Array.from(select.options).map((option) => option.value)
        .find((value) => value && (" " + query + " ").includes(" " + value + " ")) || "";
    }
    keep();
  }

  function search(query) {
    field.value = query;
    filter();
  }

  // Add one condition; once more takes it away.
  function toggle(query, others) {
    let now = " " + field.value.trim() + " ";
    const there = now.includes(" " + query + " ");
    for (const other of others || [query]) if (other) now = now.replace(" " + other + " ", " ");
    search(((there ? "" : query + " ") + now).trim());
  }

  // --- order ----------------------------------------------------------------------------------------------

  let sorted = null;

  function sort(column, direction) {
    const key = (entry) => {
      const cell = entry.rows[0].cells[column];
      return cell ? cell.dataset.k || "" : "";
    };
    const known = new Map(entries.map((entry, index) => [entry, [key(entry), index]]));
    const numbers = column === 6;
    const ordered = entries.slice().sort((a, b) => {
      const [left, right] = [known.get(a), known.get(b)];
      const by = numbers ? Number(left[0]) - Number(right[0]) : collator.compare(left[0], right[0]);
      return by * direction || left[1] - right[1];
    });
    table.append(...ordered);
    all("thead th", table).forEach((cell, index) => {
      if (cell.closest("table") !== table) return;
      if (index === column) cell.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    });
    sorted = [column, direction];
    keep();
  }

  // --- opening --------------------------------------------------------------------------------------------

  function open(entry, wanted) {
    const button = one("button.node", entry);
    if (!button) return;
    const now = wanted === undefined ? !entry.classList.contains("open") : wanted;
    entry.classList.toggle("open", now);
    button.setAttribute("aria-expanded", String(now));
  }

  function openAll() {
    const some = shown();
    const wanted = some.some((entry) => one("button.node", entry) && !entry.classList.contains("open"));
    some.forEach((entry) => open(entry, wanted));
    one("#all").setAttribute("aria-pressed", String(wanted));
  }

  function go(entry) {
    if (!entry) return;
    if (entry.hidden) search("");
    const button = one("button.node", entry);
    entry.scrollIntoView({ block: "center" });
    if (button) {
      open(entry, true);
      button.focus({ preventScroll: true });
    }
  }

  function step(by) {
    const order = all("tbody.entry", table).filter((entry) => !entry.hidden && one("button.node", entry));
    const here = document.activeElement && document.activeElement.closest("tbody.entry");
    const at = here ? order.indexOf(here) : -1;
    const next = order[Math.max(0, Math.min(order.length - 1, at < 0 ? 0 : at + by))];
    if (next) {
      one("button.node", next).focus({ preventScroll: true });
      next.rows[0].scrollIntoView({ block: "nearest" });
    }
  }

  // --- the page's address keeps what is looked for ----------------------------------------------------------

  let keeping = false;

  function keep() {
    if (!keeping) return;
    const parts = [];
    if (field.value.trim()) parts.push("q=" + encodeURIComponent(field.value.trim()));
    if (sorted) parts.push("sort=" + sorted[0] + (sorted[1] < 0 ? "d" : "a"));
    try {
      history.replaceState(null, "", parts.length ? "#" + parts.join("&") : location.pathname + location.search);
    } catch (error) {
      // A page out of an archive or a mail has no address.
    }
  }

  function restore() {
    const hash = location.hash.slice(1);
    if (/^n\d+$/.test(hash)) return go(document.getElementById(hash));
    for (const part of hash.split("&")) {
      if (part.startsWith("q=")) {
        try {
          field.value = decodeURIComponent(part.slice(2));
        } catch (error) {
          field.value = part.slice(2);
        }
      }
      const order = /^sort=([0-6])([ad])$/.exec(part);
      if (order) sort(Number(order[1]), order[2] === "d" ? -1 : 1);
    }
    return filter();
  }

  // --- events -----------------------------------------------------------------------------------------------

  let waiting = 0;
  field.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 80);
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    const cell = event.target.closest("a.cell");
    if (cell) {
      event.preventDefault();
      go(document.getElementById("n" + cell.dataset.n));
    } else if (button && button.dataset.query) {
      toggle(button.dataset.query);
      if (!button.classList.contains("tile")) one(".toolbar").scrollIntoView({ block: "start" });
    } else if (button && button.classList.contains("node")) {
      open(button.closest("tbody.entry"));
    } else if (button && button.classList.contains("sort")) {
      const column = button.parentElement.cellIndex;
      sort(column, sorted && sorted[0] === column ? -sorted[1] : 1);
    }
  });

  for (const select of all(".toolbar select")) {
    select.addEventListener("change", () => {
      const wanted = select.value;
      const others = Array.from(select.options).map((option) => option.value);
      let now = " " + field.value.trim() + " ";
      for (const other of others) if (other) now = now.replace(" " + other + " ", " ");
      search((now.trim() + " " + wanted).trim());
    });
  }

  function troubleOnly() {
    toggle(trouble);
  }

  one("#trouble").addEventListener("click", troubleOnly);
  one("#all").addEventListener("click", openAll);
  one("#clear").addEventListener("click", () => search(""));
  one("#keys").addEventListener("click", () => one("#help").showModal());
  one("#names").addEventListener("click", () => {
    const box = one("#limit");
    box.value = shown().map((entry) => entry.getAttribute("data-f-host")).join(",");
    box.hidden = false;
    box.select();
    if (navigator.clipboard) navigator.clipboard.writeText(box.value).catch(() => undefined);
  });

  one("#theme").addEventListener("click", () => {
    const root = document.documentElement.classList;
    const dark = root.contains("dark") || (!root.contains("light") && matchMedia("(prefers-color-scheme: dark)").matches);
    root.toggle("dark", !dark);
    root.toggle("light", dark);
    try {
      localStorage.setItem("gpuready-theme", dark ? "light" : "dark");
    } catch (error) {
      // A page out of a file may have no storage.
    }
  });

  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape" && event.target === field) {
      search("");
      field.blur();
    }
    if (typing || event.ctrlKey || event.metaKey || event.altKey || one("#help").open) return;
    const keys = {
      "/": () => { field.focus(); field.select(); },
      j: () => step(1),
      k: () => step(-1),
      t: troubleOnly,
      e: openAll,
      "?": () => one("#help").showModal(),
      Escape: () => search(""),
    };
    if (document.activeElement && document.activeElement.classList.contains("node")) {
      keys.ArrowDown = keys.j;
      keys.ArrowUp = keys.k;
    }
    const act = keys[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });

  // On paper, what is wrong is open.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = shown().filter((entry) => entry.classList.contains("bad") && !entry.classList.contains("open"));
    opened.forEach((entry) => open(entry, true));
  });
  addEventListener("afterprint", () => opened.forEach((entry) => open(entry, false)));
  addEventListener("hashchange", restore);

  // --- begin ------------------------------------------------------------------------------------------------

  try {
    const theme = localStorage.getItem("gpuready-theme");
    if (theme === "dark" || theme === "light") document.documentElement.classList.add(theme);
  } catch (error) {
    // As above.
  }
  entries.forEach((entry) => open(entry, false));
  // One node is what the page is about.
  if (entries.length === 1) open(entries[0], true);
  all("header time").forEach((time) => {
    const when = new Date(time.getAttribute("datetime"));
    if (!isNaN(when)) time.title = when.toLocaleString();
  });
  const measure = () => document.documentElement.style.setProperty("--bar", one(".toolbar").offsetHeight + "px");
  addEventListener("resize", measure);
  measure();
  restore();
  keeping = true;
  document.documentElement.classList.add("ready");
})();
