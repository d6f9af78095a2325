// The slider of "What it learnt" (samples_page.py): shows passages, tables and calibration as of an evaluation.
(function () {
"use strict";

const section = document.querySelector(".learnt").closest("section");

function spanWords(words) {
  const hidden = document.createElement("span");
  hidden.className = "hidden";
  hidden.textContent = ` (${words}) `;
  return hidden;
}

class Phase {
  constructor(block) {
    this.content = JSON.parse(block.querySelector(".data").textContent);
    this.slider = block.querySelector("input[type=range]");
    this.output = block.querySelector("output");
    this.button = block.querySelector("button");
    this.tables = [...block.querySelectorAll("table")];
    if (block.querySelector("figure.calibration")) this.tables.push(this.tables.shift());  // it stands before the others
    this.bins = block.querySelector(".bins");
    this.passages = [...block.querySelectorAll("article.passage")].map(article => {
      const pieces = [...article.querySelectorAll(".seen > .piece")];
      const original = [...article.querySelectorAll(".original > .piece")];
      for (const piece of pieces) {  // a text node before each, for its space
        if (!piece.previousSibling || piece.previousSibling.nodeType !== Node.TEXT_NODE) piece.before("");
      }
      const before = original.map(piece => {
        const text = piece.previousSibling;
        return [piece.textContent, text && text.nodeType === Node.TEXT_NODE ? 1 : 0];
      });
      return {pieces, before};
    });
    this.slider.addEventListener("input", () => { this.stop(); this.show(); });
    this.button.addEventListener("click", () => this.timer ? this.stop() : this.play());
    this.show();
  }

  show() {
    const step = this.content.steps[Number(this.slider.value)];
    this.output.textContent = step.label;
    this.slider.setAttribute("aria-valuetext", step.label);
    step.passages.forEach((row, number) => this.showPassage(this.passages[number], row));
    step.tables.forEach((rows, number) => this.showTable(this.tables[number], rows));
    if (this.bins) {
      this.bins.replaceChildren(...step.circles.map(([cx, cy, r]) => {
        const circle = document.createElementNS("http://www.w3.org/2000/svg", "circle");
        for (const [name, value] of Object.entries({cx, cy, r})) circle.setAttribute(name, value);
        return circle;
      }));
    }
  }

  showPassage(passage, row) {
    const changed = new Map(row.changed.map(([at, text, space]) => [at, [text, space]]));
    passage.pieces.forEach((piece, at) => {
      const [text, space] = changed.get(at) || passage.before[at];
      const percent = row.percent ? row.percent[at] : null;
      const [name, words] = this.content.words[row.states[at]] || ["", ""];
      const was = "fme".includes(row.states[at]) ? `; originally ${passage.before[at][0]}` : "";
      const share = percent === null ? "" : `${percent}% replaced`;
      piece.previousSibling.data = space ? " " : "";
      piece.className = `piece ${name}`.trim();
      piece.title = [words + was, share].filter(part => part).join("; ");
      piece.replaceChildren(text, ...(words ? [spanWords(piece.title)] : []));
      if (percent !== null) piece.style.setProperty("--p", `${percent}%`);
    });
  }

  showTable(table, rows) {
    table.tBodies[0].replaceChildren(...rows.map(cells => {
      const row = document.createElement("tr");
      for (const text of cells) row.insertCell().textContent = text;
      return row;
    }));
  }

  play() {
    if (Number(this.slider.value) === Number(this.slider.max)) this.slider.value = 0;
    this.button.textContent = "Stop";
    this.show();
    this.timer = setInterval(() => {
      this.slider.value = Number(this.slider.value) + 1;
      this.show();
      if (Number(this.slider.value) >= Number(this.slider.max)) this.stop();
    }, 700);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = undefined;
    this.button.textContent = "Play";
  }
}

let phases = [];

function start() {
  phases = [...section.querySelectorAll(".learnt")].map(block => new Phase(block));
}

// While the run goes on: a slider that stands at the last evaluation follows, others stay where they are.
section.refresh = fresh => {
  const open = [...section.querySelectorAll("details[open]")].map(details => details.id);
  const chosen = new Map(phases.map(({slider}) => [slider.id, slider.value === slider.max ? null : slider.value]));
  const focused = document.activeElement && document.activeElement.id;
  phases.forEach(phase => phase.stop());
  section.replaceChildren(...fresh.childNodes);
  for (const id of open) section.querySelector(`#${id}`)?.setAttribute("open", "");
  for (const [id, value] of chosen) {
    if (value !== null && section.querySelector(`#${id}`)) section.querySelector(`#${id}`).value = value;
  }
  start();
  if (focused && section.querySelector(`[id="${focused}"]`)) section.querySelector(`[id="${focused}"]`).focus();
};

start();
}());
