// A live display of codes: one row per scale, coarse to fine, each code as wide as its duration, newest at the right.
//
//   const tokens = new Tokens(element, { strides: [4, 2, 1], size: 4096, shown: 12 });
//   tokens.push([[5], [1, 2], [7, 8, 9, 10]]);   // codes of each scale, any number of whole coarse frames
//   tokens.clear();
//
// strides    frames per code of each scale, as in a model's `vq_strides`
// size       of the codebooks: a code's colour depends on its number
// shown      coarse frames to show; older ones are dropped. tokens.count is the total number of codes.
//
// The element's aria-label counts them once per second; the numbers are not a live region, which screen readers would
// read without end.

const CELL_PIXELS = 32; // that five digits take

export class Tokens {
  constructor(element, { strides, size, shown = 12 }) {
    this.element = element;
    this.strides = strides;
    this.size = size;
    this.frame = strides.reduce(leastCommonMultiple);
    this.shown = shown;
    element.classList.add("tokens");
    element.setAttribute("role", "group");
    element.style.setProperty("--frames", this.frame * shown);
    this.rows = strides.map((stride) => {
      const row = document.createElement("div");
      row.className = "scale";
      row.style.setProperty("--stride", stride);
      return row;
    });
    element.replaceChildren(...this.rows);
    new ResizeObserver(() => this.fit()).observe(element);
    this.clear();
  }

  clear() {
    this.count = 0;
    for (const row of this.rows) row.replaceChildren();
    this.describe();
  }

  push(codes) {
    codes.forEach((scale, index) => {
      const row = this.rows[index];
      const most = (this.frame / this.strides[index]) * this.shown;
      row.append(...Array.from(scale).slice(-most).map((code) => this.cell(Number(code))));
      while (row.childElementCount > most) row.firstElementChild.remove();
      this.count += scale.length;
    });
    if (performance.now() - this.described >= 1000) this.describe();
  }

  cell(code) {
    const cell = document.createElement("span");
    cell.textContent = code;
    cell.style.setProperty("--hue", Math.round((360 * code) / this.size));
    return cell;
  }

  // Numbers that do not fit are hidden, as a truncated number would be wrong.
  fit() {
    const frame = this.element.clientWidth / (this.frame * this.shown);
    this.rows.forEach((row, index) => row.classList.toggle("narrow", frame * this.strides[index] < CELL_PIXELS));
  }

  describe() {
    this.described = performance.now();
    this.element.setAttribute("aria-label", `Codes of ${this.strides.length} scales: ${this.count} so far`);
  }
}

function leastCommonMultiple(a, b) {
  const divisor = (x, y) => (y ? divisor(y, x % y) : x);
  return (a * b) / divisor(a, b);
}
