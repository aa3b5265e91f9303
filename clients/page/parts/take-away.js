import { html, css, LitElement } from '../vendor/lit.js';
import { base } from '../style.js';
import { file } from '../api.js';
import { copy, curl, python } from '../copy.js';

/** How texts are shown in Python. */
const TEXTS = "for name, branch in result['branches'].items():\n    for sample in branch['samples']:\n        print(name, sample['text'])";

/**
 * What can be taken away of a result: pictures and tables as the server makes them, and the request as text. `job` names a job or a
 * result that the server keeps; without it, or when it is kept no longer, the request is sent again, in another form. `show` are the
 * parameters of the picture, `forms` what there is of it, `document` an answer that the server does not keep, and `table` its rows, the
 * names of the columns first.
 */
export class TakeAway extends LitElement {
  static properties = { kind: {}, body: { attribute: false }, job: {}, forms: { attribute: false }, document: { attribute: false }, table: { attribute: false }, show: { attribute: false }, plot: {}, said: { state: true } };
  static styles = [base, css`
    .row { gap: .4rem; }
    button { padding: .2rem .6rem; }
  `];

  constructor() {
    super();
    this.show = {};
    this.forms = ['svg', 'png', 'csv', 'json'];
    this.plot = 'df';
    this.said = '';
  }

  render() {
    const { forms } = this;
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
      const blob = await this.#file(form, query, picture);
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

  async #file(form, query, picture) {
    const { job } = this;
    if (form === 'csv' && this.table) return new Blob([this.table.map(row => `${row.map(cell).join(',')}\n`).join('')], { type: 'text/csv' });
    if (this.document) return new Blob([JSON.stringify(this.document)], { type: 'application/json' });
    const again = () => file(`/v1/${this.kind}?${query}`, { body: this.body });
    if (!job) return again();
    if (job.startsWith('job_')) return file(`/v1/jobs/${job}/${picture ? 'plot' : 'result'}?${query}`);
    return file(`/v1/results/${job}?${query}`).catch(error => (error.status === 404 ? again() : Promise.reject(error)));
  }

  async #copy(what) {
    const after = { df: 'result.df', lens: 'result.lens().plot()', plot: 'result.plot()', texts: TEXTS }[this.plot];
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
/** A cell of CSV. */
const cell = value => (/[",\r\n]/.test(value ?? '') ? `"${value.replaceAll('"', '""')}"` : String(value ?? ''));

customElements.define('take-away', TakeAway);
