// What nobody has named yet: pictures to choose from, a name for them, and what became of it.

import { make } from "./panel.js";

export class Naming {
  constructor(find) {
    this.find = find;
    this.lines = new Map(); // by the picture's number
    find("naming").addEventListener("submit", (event) => {
      event.preventDefault();
      this.learn();
    });
  }

  /** Adds and removes pictures; those that stay keep their mark. */
  show(offers) {
    this.find("naming-card").hidden = !offers;
    document.body.classList.toggle("names", Boolean(offers)); // an empty row would leave a gap
    if (!offers) return;
    const there = new Set(offers.map((offer) => offer.number));
    for (const [number, line] of this.lines) {
      if (there.has(number)) continue;
      line.remove();
      this.lines.delete(number);
    }
    for (const offer of [...offers].reverse()) {
      if (this.lines.has(offer.number)) continue;
      const about = `nearest ${offer.nearest} ${offer.similarity.toFixed(2)}`;
      const image = make("img", { src: `api/unknown.jpg?number=${offer.number}`, alt: about, title: about });
      const box = make("input", { type: "checkbox", name: "picture", value: offer.number });
      const line = make("li", {}, make("label", {}, box, image));
      this.lines.set(offer.number, line);
      this.find("offers").prepend(line);
    }
    this.find("nothing-offered").hidden = offers.length > 0;
    this.find("naming").hidden = offers.length === 0;
  }

  async learn() {
    const form = this.find("naming");
    const said = this.find("learned");
    const body = new URLSearchParams(new FormData(form));
    if (!body.has("picture")) {
      said.textContent = "Choose one picture or several.";
      return;
    }
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      const answer = await fetch("api/learn", { method: "POST", body });
      said.textContent = (await answer.text()).trim();
      if (!answer.ok) return;
      for (const number of body.getAll("picture")) this.lines.get(Number(number))?.remove();
      form.reset();
    } catch {
      said.textContent = "The run could not be reached.";
    } finally {
      button.disabled = false;
    }
  }
}
