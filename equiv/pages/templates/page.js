"use strict";
(() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);
  const say = (text) => { one("#said").textContent = text; };

  // Light and dark: as the system has it, until somebody chooses.
  const theme = one("#theme"), dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
  const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; label(); });
  dark.addEventListener("change", label);
  label();

  // Copy: through the clipboard where the browser lets a file use it, else through the selection.
  const select = (node) => { const range = document.createRange(); range.selectNodeContents(node); getSelection().removeAllRanges(); getSelection().addRange(range); };
  const copied = async (node) => {
    try { await navigator.clipboard.writeText(node.textContent); return true; } catch { select(node); return document.execCommand("copy"); }
  };
  all("button.copy").forEach((button) => {
    const words = button.innerHTML;
    button.addEventListener("click", async () => {
      const done = await copied(document.getElementById(button.dataset.copy).querySelector("code"));
      button.textContent = done ? "Copied" : "Selected";
      say(done ? "Copied to the clipboard" : "Selected: copy it by the keyboard");
      setTimeout(() => { button.innerHTML = words; }, 1500);
    });
  });

  // Search and filter: what has the words, and the chosen value of each thing that it has a value of.
  const form = one("#filters"), rows = all("article, table.data tbody tr");
  const searched = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const filter = () => {
    const words = one("#search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = all("select[data-by]", form).filter((choice) => choice.value);
    let shown = 0;
    rows.forEach((row) => {
      const fits = chosen.every((choice) => !(choice.dataset.by in row.dataset) || row.dataset[choice.dataset.by] === choice.value);
      row.hidden = !(fits && words.every((word) => searched.get(row).includes(word)));
      shown += !row.hidden;
    });
    one("#shown").textContent = shown === rows.length ? "" : `${shown} of ${rows.length} shown`;
    all("[data-none]").forEach((note) => { note.hidden = all(note.dataset.none).some((row) => !row.hidden); });
  };
  if (form) {
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(filter));
    filter();
  }
  const reveal = () => { const target = location.hash && document.getElementById(location.hash.slice(1)); if (target && target.hidden) { form.reset(); setTimeout(() => target.scrollIntoView()); } };
  addEventListener("hashchange", reveal);

  // Sort: by numbers where a column has them.
  const value = (cell) => { const data = cell.querySelector("data"); return data ? data.value : cell.textContent.trim(); };
  const number = (text) => (text === "inf" ? Infinity : text === "" ? -Infinity : Number(text.replaceAll(",", "")));
  all("table.data").forEach((table) => all("thead th", table).forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending", sign = order === "ascending" ? 1 : -1;
      const listed = all("tbody tr", table), numbers = head.classList.contains("number");
      const key = new Map(listed.map((row) => [row, value(row.cells[column])]));
      const compare = (a, b) => (numbers ? number(key.get(a)) - number(key.get(b)) || 0 : key.get(a).localeCompare(key.get(b)));
      listed.sort((a, b) => sign * compare(a, b)).forEach((row) => row.parentNode.append(row));
      all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      say(`Sorted by ${button.textContent}, ${order}`);
    });
  }));

  // The map: arrow keys go from cell to cell; what is under the pointer or the focus is told in full.
  const about = one("#about");
  const tell = (link) => { if (about) about.textContent = link.title || `${link.dataset.at}: ${link.textContent}`; };
  all("table.map").forEach((map) => {
    const lines = all("tbody tr", map), links = all("a", map);
    links.forEach((link, index) => {
      link.tabIndex = index ? -1 : 0;
      link.addEventListener("focus", () => tell(link));
      link.addEventListener("mouseenter", () => tell(link));
    });
    map.addEventListener("keydown", (event) => {
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      const cell = event.target.closest("td");
      if (!step || !cell) return;
      event.preventDefault();
      let line = lines.indexOf(cell.parentNode), column = [...cell.parentNode.children].filter((one) => one.tagName === "TD").indexOf(cell);
      for (;;) {
        line += step[0];
        column += step[1];
        const next = lines[line] && all("td", lines[line])[column];
        if (!next) return;
        const link = next.querySelector("a");
        if (link) { links.forEach((other) => { other.tabIndex = -1; }); link.tabIndex = 0; link.focus(); return; }
      }
    });
  });

  // Keys.
  const failures = () => all("article").filter((article) => !article.hidden);
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "Escape" && form) { form.reset(); one("#search").blur(); return; }
    if (typing) return;
    if (event.key === "/" && form) { event.preventDefault(); one("#search").focus(); one("#search").select(); }
    if (event.key === "n" || event.key === "p") {
      const listed = failures(), at = listed.indexOf(document.activeElement.closest("article"));
      const next = listed[event.key === "n" ? at + 1 : Math.max(0, at - 1)];
      if (next) { next.focus(); next.scrollIntoView(); }
    }
  });

  // On paper all is unfolded.
  let closed = [];
  addEventListener("beforeprint", () => { closed = all("details:not([open])"); closed.forEach((part) => { part.open = true; }); });
  addEventListener("afterprint", () => closed.forEach((part) => { part.open = false; }));
})();
