// A component that draws itself anew when the lab changes.

import { LitElement } from './vendor/lit.js';
import { base } from './style.js';

export class Watching extends LitElement {
  static properties = { lab: { attribute: false } };
  static styles = base;
  #watch = () => this.requestUpdate();

  connectedCallback() {
    super.connectedCallback();
    this.lab.addEventListener('change', this.#watch);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this.lab.removeEventListener('change', this.#watch);
  }

  get given() { return this.lab.given; }
  get live() { return this.lab.live; }
}
