// Each view done once by keyboard alone, and what is spoken compared with the server's numbers.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { open, reach, says, shown } from './support.mjs';

const MINUS = '\u2212';
/** Three digits, as the page writes and speaks them. */
const three = value => String(Number(value.toPrecision(3))).replace('-', MINUS);

/** What the part that has the focus has just spoken. */
const spoken = page => page.evaluate(() => {
  let active = document.activeElement;
  while (active?.shadowRoot?.activeElement) active = active.shadowRoot.activeElement;
  return active.getRootNode().getElementById('spoken').textContent;
});

/** Empties the box that has the focus and types. */
const type = async (page, text) => {
  await page.keyboard.press('Control+A');
  await page.keyboard.press('Delete');
  await page.keyboard.type(text);
};

/** Goes to a view from wherever the focus is. */
const visit = async (page, title) => {
  await reach(page, title, 'a');
  await page.keyboard.press('Enter');
};

const press = async (page, ...keys) => {
  for (const key of keys) await page.keyboard.press(key);
};

const go = async (page, verb) => {
  await page.locator('job-bar button.go:enabled').waitFor();
  await reach(page, verb, 'button');
  await page.keyboard.press('Enter');
};

export function keyboard(on) {
  test('by keys alone: the subject is marked, the lens read, a trace made, read and opened', async () => {
    const page = await open(on.tiny, '', { allow: ['422'] });
    await page.locator('.next li').first().waitFor();
    await reach(page, 'prompt');
    await type(page, 'The Tower is tall');
    await page.locator('token-strip [data-i="16"]').waitFor();
    await reach(page, 'listbox');
    const { tokens } = await on.tiny.ask('/v1/tokenize', { prompt: 'The Tower is tall' });
    await press(page, 'Home', ...Array(tokens.findIndex(({ start }) => start === 4)).fill('ArrowRight'), ...Array(4).fill('Shift+ArrowRight'));
    await says(page, 'main', 'Subject: Tower');
    await reach(page, 'target');
    await type(page, ' a');
    await page.locator('lens-grid .base').waitFor();
    // The lens of what is written now.
    await page.waitForFunction(() => (({ lab }) => lab.live.runOf === JSON.stringify(lab.body('workbench')))(document.querySelector('lab-page')));
    await reach(page, 'logit lens');
    await press(page, 'End', 'PageUp', 'ArrowDown');
    const run = await on.tiny.ask('/v1/run', { prompt: 'The Tower is tall', read: { topk: 10, logit_lens: { topk: 3 } } });
    const lens = run.runs.run.logit_lens;
    const [best] = lens.topk.at(-2).at(-1);
    assert.ok((await spoken(page)).includes(`${three(best.prob * 100)} %`), await spoken(page));
    await press(page, 'Enter');
    await page.locator('workbench-view series-chart svg[role]').waitFor();

    await visit(page, 'Trace');
    await reach(page, 'samples');
    await type(page, '2');
    await go(page, 'Trace');
    await page.locator('trace-view take-away').waitFor({ timeout: 60_000 });
    const [, answer] = await shown(on.tiny, page);
    assert.equal(answer.request.runs.clean.prompt, 'The Tower is tall');
    await reach(page, 'heat maps');
    await press(page, 'Home', 'PageDown', ...Array(5).fill('ArrowRight'));
    const { mean, se } = answer.arms.hidden.effects['logprob:target'];
    assert.ok((await spoken(page)).includes(`Hidden state ${mean[0][5] > 0 ? '+' : ''}${three(mean[0][5])} plus or minus ${three(se[0][5])}`), `${await spoken(page)} of ${mean[0][5]}`);
    await press(page, 'Enter');
    // The cell's top tokens, beside both runs that it is compared with.
    await says(page, 'trace-view', 'this cell restored');
    const [cell] = (await on.tiny.ask('/v1/trace', { ...answer.request, arms: { hidden: answer.request.arms.hidden }, cells: [{ layer: 0, position: 5 }], read: { topk: 5 } })).cells;
    const rows = await page.locator('trace-view .columns table tbody tr').allInnerTexts();
    assert.equal(rows.length, cell.tokens.length);
    cell.tokens.forEach(({ clean }, at) => assert.ok(rows[at].includes(`${three(clean * 100)} %`), `${rows[at]} of ${clean}`));
    await press(page, 'Escape', 't');
    await page.locator('heat-map .scroll table').first().waitFor();
    await page.done();
  });

  test('by keys alone: a patch, and what is inside', async () => {
    const page = await open(on.tiny, '#/patch?prompt=The+Tower+is+tall&target=+a');
    await page.locator('#prompt').waitFor();
    await reach(page, 'source');
    await type(page, 'The Bridge is long');
    await page.locator('position-map li button').waitFor();
    // A line of the map goes, and another comes.
    await reach(page, 'remove');
    await press(page, 'Delete');
    await page.locator('position-map li button').waitFor({ state: 'detached' });
    await press(page, 'Shift+Tab');
    for (const [row, i] of [['source', 4], ['target', 3]]) {
      await reach(page, `${row}:${i}`);
      await press(page, 'Enter');
    }
    await says(page, 'position-map li', 'remove');
    await go(page, 'Patch');
    await page.locator('patch-view take-away').waitFor({ timeout: 60_000 });
    const [, answer] = await shown(on.tiny, page);
    assert.deepEqual(answer.request.interventions[0].positions, { map: [[4, 3]] });
    await reach(page, 'chart');
    await press(page, 'Home', 'ArrowRight');
    assert.ok((await spoken(page)).includes(`Layer 1. patched ${three(answer.values['logprob:target'][1])}`), await spoken(page));
    await press(page, 'Enter');
    await says(page, 'patch-view', 'patched here');

    await visit(page, 'Inside');
    await reach(page, 'layer');
    await type(page, '1');
    await go(page, 'Look inside');
    await page.locator('inside-view take-away').first().waitFor({ timeout: 60_000 });
    const { attention: [{ values, layers }], attribution } = (await shown(on.tiny, page))[1].runs.run;
    assert.deepEqual(layers, [1]);
    await reach(page, 'heat maps');
    await press(page, 'End', 'PageDown', 'ArrowLeft');
    const last = values[0][0].length - 1;
    assert.ok((await spoken(page)).includes(`Head 0 ${three(values[0][0][last][last - 1])}`), await spoken(page));
    await reach(page, 'chart');
    await press(page, 'Home');
    assert.ok((await spoken(page)).includes(`Attention ${three(attribution.attn_out[0])}`), await spoken(page));
    await page.done();
  });

  test('by keys alone: a data set, its averages, a case; the job is found again; a key is kept and forgotten', async () => {
    const page = await open(on.tiny, '#/averages?samples=2&wrong=keep&arms=hidden');
    // Open where no data set is saved.
    await page.locator('averages-view details').waitFor();
    await page.waitForTimeout(300);
    if (!(await page.locator('#cases').isVisible())) {
      await reach(page, 'New data set');
      await press(page, 'Enter');
    }
    await reach(page, 'cases');
    await page.keyboard.type('id,prompt,subject,target\nkeys,The Tower is tall,Tower," a"\nmore,The Bridge is long,Bridge," b"\n');
    await reach(page, 'name');
    await page.keyboard.type('by keys');
    await reach(page, 'Save on the server', 'button');
    await press(page, 'Enter');
    await says(page, 'averages-view', '2 cases');
    await go(page, 'Start job');
    await says(page, 'averages-view h2', /Averages over 2 cases$/, 60_000);
    await page.locator('job-bar progress').waitFor({ state: 'detached' });
    const [id, answer] = await shown(on.tiny, page);
    await reach(page, 'chart');
    await press(page, 'Home');
    const row = answer.averages.rows.find(row => row.layer === 0 && row.token_class === 'last_subject' && row.metric === 'logprob:target' && row.group === null);
    assert.ok((await spoken(page)).includes(`Hidden state ${three(row.effect.mean)}`), `${await spoken(page)} of ${row.effect.mean}`);
    await reach(page, 'heat map');
    await press(page, 'End');
    assert.match(await spoken(page), /^Layer 0, last\. Hidden state/);
    await reach(page, 'Trace it', 'button');
    await press(page, 'Enter');
    await says(page, 'trace-view job-bar', 'runs');
    assert.equal(await page.locator('#prompt').inputValue(), 'The Tower is tall');

    await visit(page, 'Jobs');
    await page.locator('jobs-view tbody a').first().waitFor();
    await reach(page, id, 'a');
    await press(page, 'Enter');
    await says(page, 'jobs-view h2', id);
    await page.locator('jobs-view img').waitFor();
    await reach(page, 'Open it in Averages', 'a');
    await press(page, 'Enter');
    await says(page, 'averages-view h2', /Averages over 2 cases$/);

    await visit(page, 'Status');
    await page.locator('status-view dl dt').nth(5).waitFor();
    await reach(page, 'key');
    await page.keyboard.type('secret');
    await press(page, 'Enter');
    await says(page, 'status-view [role=status]', 'Kept in this tab.');
    await reach(page, 'Forget it', 'button');
    await press(page, 'Enter');
    await says(page, 'status-view [role=status]', 'Forgotten.');
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    await page.done();
  });
}
