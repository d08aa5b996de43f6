// Names and keys for what the theme leaves without, and a search field above the tables of a page with more than 25
// rows: words that a row must have, in any order.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelector(".md-search").ariaLabel = "Search";
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((wide) => (wide.tabIndex = 0)); // by keyboard, too
  const rows = [...document.querySelectorAll(".md-content table tbody tr")];
  const first = document.querySelector(".md-content table");
  if (rows.length <= 25) return;
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const find = document.createElement("div");
  find.className = "find";
  find.innerHTML = '<label for="find">Find</label><input id="find" type="search" placeholder="such as bfloat16 stride"><span role="status"></span>';
  const home = first.closest(".md-typeset__scrollwrap") ?? first;
  const heading = home.previousElementSibling;
  (heading?.matches("h2, h3") ? heading : home).before(find);
  const [input, status] = [find.querySelector("input"), find.querySelector("span")];
  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      row.hidden = !words.every((word) => texts[i].includes(word));
      shown += !row.hidden;
    });
    status.textContent = `${shown} of ${rows.length} rows`;
    document.querySelectorAll(".md-content table").forEach((table) => {
      table.hidden = !table.querySelector("tbody tr:not([hidden])");
    });
  };
  input.addEventListener("input", show);
  show();
});
