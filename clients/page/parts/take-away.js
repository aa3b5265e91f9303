import { html, css, LitElement } from '../vendor/lit.js';
import { base } from '../style.js';
import { file } from '../api.js';
import { copy, curl, python } from '../copy.js';

/**
 * What can be taken away of a result: pictures and tables as the server makes them, and the request as text. `job` names a kept
 * result; without it the request is sent again, in another form. `show` are the parameters of the picture.
 */
export class TakeAway extends LitElement {
  static properties = { kind: {}, body: { attribute: false }, job: {}, show: { attribute: false }, plot: {}, said: { state: true } };
  static styles = [base, css`
    .row { gap: .4rem; }
    button { padding: .2rem .6rem; }
  `];

  constructor() {
    super();
    this.show = {};
    this.plot = 'df';
    this.said = '';
  }

  render() {
    const forms = ['svg', 'png', 'csv', 'json'];
    const copies = [['curl', 'Copy as curl'], ['python', 'Copy as Python'], ['link', 'Copy link']];
    return html`<div class="row" role="group" aria-label="Take away">
      ${forms.map(form => html`<button data-form=${form} @click=${() => this.#save(form)} ?disabled=${!this.body}>${form.toUpperCase()}</button>`)}
      ${copies.map(([what, words]) => html`<button data-copy=${what} @click=${() => this.#copy(what)} ?disabled=${!this.body}>${words}</button>`)}
      <span class="dim" role="status">${this.said}</span></div>`;
  }

  async #save(form) {
    const picture = form === 'svg' || form === 'png';
    const query = new URLSearchParams({ format: form, ...(picture ? this.show : {}) });
    this.said = 'One moment …';
    try {
      const path = this.job ? `/v1/jobs/${this.job}/${picture ? 'plot' : 'result'}?${query}` : `/v1/${this.kind}?${query}`;
      const blob = await file(path, this.job ? {} : { body: this.body });
      const link = document.createElement('a');
      link.href = URL.createObjectURL(blob);
      link.download = `${this.job || this.kind}.${form}`;
      link.click();
      URL.revokeObjectURL(link.href);
      this.#say(`${link.download} is saved.`);
    } catch (error) {
      this.said = error.message;
    }
  }

  async #copy(what) {
    const after = { df: 'result.df', lens: 'result.lens().plot()', plot: 'result.plot()' }[this.plot];
    const texts = { curl: () => curl(this.kind, this.body), python: () => python(this.kind, this.body, after), link: () => location.href };
    try {
      await copy(texts[what]());
      this.#say('Copied.');
    } catch (error) {
      this.said = error.message;
    }
  }

  #say(text) {
    this.said = text;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => { this.said = ''; }, 3000);
  }
}
customElements.define('take-away', TakeAway);
