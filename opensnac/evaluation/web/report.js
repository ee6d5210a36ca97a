"use strict";

// Tables: a click on a heading sorts by it, another one reverses the order; cells without a value stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value;
      const rows = [...table.tBodies[0].rows].sort((first, second) => {
        const [a, b] = [value(first), value(second)];
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
        return descending ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}

// Players: one plays at a time, and another one of the same clip continues at the same position.
let last = null;
for (const player of document.querySelectorAll("audio")) {
  player.addEventListener("play", () => {
    if (last && last !== player) {
      const here = last.closest(".clip") === player.closest(".clip");
      if (here && !last.ended && player.currentTime === 0) player.currentTime = last.currentTime;
      last.pause();
    }
    last = player;
  });
  player.addEventListener("pause", () => {
    if (last !== player) player.currentTime = 0;
  });
}
