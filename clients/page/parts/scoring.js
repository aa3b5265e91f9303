import { html } from '../vendor/lit.js';

const WAYS = [['first_token', 'their first token'], ['joint', 'the whole text'], ['mean_logprob', 'the mean of its tokens']];

/** How targets of several tokens are scored. */
export const scoringChoice = lab => html`<label>Of targets, score <select name="scoring" @change=${event => lab.set({ scoring: event.target.value })}>${WAYS.map(([name, words]) =>
  html`<option value=${name} ?selected=${lab.given.scoring === name}>${words}</option>`)}</select></label>`;
