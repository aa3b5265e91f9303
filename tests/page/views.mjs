import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { copied, open, place, python, reach, says, shown } from './support.mjs';

const CASES = `id,group,prompt,subject,target
eiffel,a,The Eiffel Tower is in the city of,Eiffel Tower," Paris"
colosseum,b,The Colosseum is located in the city of,Colosseum," Rome"
gate,b,The Brandenburg Gate is located in the city of,Brandenburg Gate," Berlin"
`;

const save = async (page, form) => {
  const [download] = await Promise.all([page.waitForEvent('download'), page.locator(`take-away [data-form=${form}]`).first().click()]);
  return readFileSync(await download.path());
};

export function views(on) {
  test('patch: the position map is drawn, and the numbers are the server\'s', async () => {
    const page = await open(on.model, '#/patch?prompt=The+river+has+a+strong+water&source=Why+do+electricians+make+good+swimmers%3F+Because+they+know+the&target=+current');
    const token = (row, i) => page.locator(`position-map [data-row=${row}][data-i="${i}"]`);
    await token('target', 5).waitFor();
    await says(page, 'position-map', '11 ·the → 5 ·water');
    // By pointer: a second line, then its end is moved.
    const drag = async (from, to) => {
      const [a, b] = [await from.boundingBox(), await to.boundingBox()];
      await page.mouse.move(a.x + 6, a.y + 6);
      await page.mouse.down();
      await page.mouse.move(b.x + 6, b.y + 6, { steps: 3 });
      await page.mouse.up();
    };
    await drag(token('source', 2), token('target', 1));
    await says(page, 'position-map', '2 ·electric → 1 ·river');
    await drag(token('target', 1), token('target', 3));
    await says(page, 'position-map', '2 ·electric → 3 ·a');
    assert.match(page.url(), /map=2-3%2C11-5/);
    // By keys: the line goes, and another comes.
    await page.locator('position-map li button', { hasText: '2 ·electric' }).press('Delete');
    await token('source', 10).press('Enter');
    await token('target', 4).press('Enter');
    await says(page, 'position-map', '10 ·know → 4 ·strong');
    await page.locator('job-bar button.go:enabled').click();
    await page.locator('take-away').first().waitFor({ timeout: 60_000 });
    const [job, answer] = await shown(on.model, page);
    assert.deepEqual(answer.request.interventions[0].positions, { map: [[10, 4], [11, 5]] });
    assert.equal(answer.controls.self_patch.max_abs_effect, 0);
    await page.locator('series-chart svg[role]').focus();
    await page.keyboard.press('Home');
    await page.keyboard.press('ArrowRight');
    const spoken = await page.locator('series-chart #spoken').innerText();
    const value = answer.values['logprob:target'][1];
    assert.ok(spoken.startsWith(`Layer 1. patched ${Number(value.toPrecision(3))}`.replace('-', '\u2212')), `${spoken} of ${value}`);
    await page.keyboard.press('Enter');
    await says(page, 'patch-view', 'patched here');
    const { lasting } = answer.derived.leaves_base[0];
    await says(page, 'patch-view', `Leaves the base for good from layer ${lasting.layer} on`);
    assert.deepEqual(await save(page, 'csv'), Buffer.from(await (await fetch(`${on.model.url}${place(job)}?format=csv`)).arrayBuffer()));
    const curl = JSON.parse(execFileSync('bash', ['-c', `${await copied(page, 'curl')} -s`], { encoding: 'utf8', maxBuffer: 1 << 26 }));
    assert.deepEqual(curl.values, answer.values);
    if (process.env.MEDIANT_PYTHON) assert.deepEqual(python(await copied(page, 'python'), 'values'), answer.values);
    await page.done();
  });

  test('targets may be alternatives and texts of several tokens, and a patch may have an unrelated prompt beside it', async () => {
    const page = await open(on.model, '#/patch?prompt=The+river+has+a+strong+water&source=Why+do+electricians+make+good+swimmers%3F+Because+they+know+the&target=+voltage%7C+electricity&foil=+flow%7C+pressure&controls=unrelated_prompt&scoring=joint');
    await page.locator('job-bar button.go:enabled').click();
    await page.locator('take-away').first().waitFor({ timeout: 60_000 });
    const [, answer] = await shown(on.model, page);
    assert.deepEqual([answer.request.targets, answer.request.target_scoring], [{ target: [' voltage', ' electricity'], foil: [' flow', ' pressure'] }, 'joint']);
    assert.ok(answer.controls.unrelated_prompt);
    await says(page, 'patch-view h2', '“·voltage” or 1 more');
    if (process.env.MEDIANT_PYTHON) assert.deepEqual(python(await copied(page, 'python'), 'values'), answer.values);
    await page.done();
  });

  test('averages: a pasted table becomes a data set, a job, bars, maps and cases', async () => {
    const page = await open(on.model, '#/averages?samples=2&every=15&arms=hidden,mlp&wrong=keep&groups=yes');
    await page.getByText('New data set').click();
    if (!(await page.locator('#cases').isVisible())) await page.getByText('New data set').click();
    await page.locator('#cases').fill(CASES);
    await page.locator('#name').fill('capitals');
    await page.getByRole('button', { name: 'Save on the server' }).click();
    await says(page, 'averages-view', '3 cases');
    await page.locator('job-bar button.go:enabled').click();
    await says(page, 'averages-view h2', /Averages over 3 cases$/, 90_000);
    // All cells may be there before the job is over.
    await page.locator('job-bar progress').waitFor({ state: 'detached' });
    const [job, answer] = await shown(on.model, page);
    const row = answer.averages.rows.find(row => row.arm === 'hidden' && row.layer === 15 && row.token_class === 'last_subject' && row.metric === 'logprob:target' && row.group === null);
    await page.locator('series-chart svg[role]').focus();
    await page.keyboard.press('End');
    const spoken = await page.locator('series-chart #spoken').innerText();
    assert.ok(spoken.includes(`Hidden state ${Number(row.effect.mean.toPrecision(3))}`.replace('-', '\u2212')), `${spoken} of ${row.effect.mean}`);
    await page.locator('label', { hasText: 'Group' }).locator('select').selectOption('b');
    await page.locator('heat-map [role=application]').focus();
    await page.keyboard.press('End');
    await says(page, 'heat-map cell-reading', 'Layer 0, last');
    assert.deepEqual(await save(page, 'csv'), Buffer.from(await (await fetch(`${on.model.url}${place(job)}?format=csv`)).arrayBuffer()));
    assert.match((await save(page, 'svg')).toString(), /<svg /);
    if (process.env.MEDIANT_PYTHON) assert.deepEqual(python(await copied(page, 'python'), 'averages'), answer.averages);
    await page.getByRole('button', { name: 'Trace it' }).first().click();
    await says(page, 'trace-view job-bar', 'runs');
    assert.equal(await page.locator('#prompt').inputValue(), 'The Eiffel Tower is in the city of');
    await page.done();
  });

  test('averages: a line whose subject does not occur is named', async () => {
    const page = await open(on.model, '#/averages', { allow: ['422'] });
    await page.locator('details summary').click();
    if (!(await page.locator('#cases').isVisible())) await page.locator('details summary').click();
    await page.locator('#cases').fill('prompt,subject,target\nHello there,nobody," a"\n');
    await page.getByRole('button', { name: 'Save on the server' }).click();
    await says(page, 'averages-view .problem', '"nobody" does not occur in the prompt');
    await page.done();
  });

  test('inside: attention sums to one, and the parts to the logit difference', async () => {
    const page = await open(on.model, '#/inside?prompt=The+Eiffel+Tower+is+in+the+city+of&target=+Paris&foil=+Rome&layer=23');
    await page.locator('job-bar button.go:enabled').click();
    await page.locator('take-away').first().waitFor({ timeout: 60_000 });
    const [, answer] = await shown(on.model, page);
    const { attention: [{ values }], attribution } = answer.runs.run;
    const map = page.locator('heat-map [role=application]').first();
    await map.focus();
    for (const key of ['End', 'PageDown', 'ArrowLeft']) await page.keyboard.press(key);
    const weight = values[0][0][8][7];
    assert.ok((await page.locator('heat-map #spoken').first().innerText()).includes(`Head 0 ${Number(weight.toPrecision(3))}`), weight);
    await page.locator('series-chart svg[role]').focus();
    await page.keyboard.press('Home');
    assert.ok((await page.locator('series-chart #spoken').innerText()).includes(`Attention ${Number(attribution.attn_out[0].toPrecision(3))}`));
    if (process.env.MEDIANT_PYTHON) assert.deepEqual(python(await copied(page, 'python'), 'runs'), answer.runs);
    await page.done();
  });

  test('generate: by keys alone, beside the unpatched text, and every copy gives its texts', async () => {
    const page = await open(on.model, '#/generate', { allow: ['422'] });
    await page.locator('#prompt').focus();
    await page.keyboard.press('Control+A');
    await page.keyboard.type('When I woke up this morning, I felt');
    await reach(page, 'toward');
    await page.keyboard.type('I am so happy today, everything is wonderful');
    await reach(page, 'away');
    await page.keyboard.type('I am so sad today, everything is terrible');
    await reach(page, 'strengths');
    await page.keyboard.press('Control+A');
    await page.keyboard.type('1, 3');
    await reach(page, 'length');
    await page.keyboard.press('Control+A');
    await page.keyboard.type('8');
    await page.keyboard.press('Tab');
    await page.locator('job-bar button.go:enabled').waitFor();
    await reach(page, 'Write');
    await page.keyboard.press('Enter');
    await page.locator('generate-view take-away').waitFor({ timeout: 90_000 });
    const curl = JSON.parse(execFileSync('bash', ['-c', `${await copied(page, 'curl')} -s`], { encoding: 'utf8', maxBuffer: 1 << 26 }));
    assert.deepEqual(Object.keys(curl.branches), ['unpatched', 'strength 1', 'strength 3']);
    for (const [name, { samples: [sample] }] of Object.entries(curl.branches)) {
      const box = page.locator(`generate-view section[aria-label="${name}"]`);
      assert.equal((await box.locator('.text').textContent()), sample.text);
      if (name !== 'unpatched') await says(page, `generate-view section[aria-label="${name}"]`, `under the unpatched model \u2212${Number((-sample.compare.mean_logprob).toPrecision(3))}`);
    }
    const saved = JSON.parse((await save(page, 'json')).toString());
    assert.deepEqual(saved.branches, curl.branches);
    const [header, plain] = (await save(page, 'csv')).toString().split('\n');
    assert.equal(header, 'branch,sample,text,finish,tokens,mean_logprob');
    assert.ok(plain.startsWith('unpatched,0,') && plain.includes(curl.branches.unpatched.samples[0].text.split('"')[0].trim()), plain);
    if (process.env.MEDIANT_PYTHON) assert.deepEqual(python(await copied(page, 'python'), 'branches'), curl.branches);
    // The model of the tests has a template: then the prompt may be a message.
    await page.getByLabel('The prompt is a message').check();
    await says(page, 'job-bar', 'runs');
    await page.locator('job-bar button.go:enabled').click();
    await page.locator('generate-view take-away').waitFor({ timeout: 90_000 });
    assert.equal(await page.evaluate(() => document.querySelector('lab-page').lab.jobs.generate.result.prompt.text.includes('<|im_start|>')), true);
    await page.done();
  });

  test('jobs: one is found, opened in its view with the same numbers, and cancelled', async () => {
    const body = { prompt: 'The Eiffel Tower is in the city of', subject: 'Eiffel Tower', target: ' Paris', metrics: ['logprob:target', 'prob:target'], arms: ['hidden'], layers: { from: 0, to: 30, step: 15 }, corrupt: { samples: 2 } };
    const submit = (body, kind = 'trace') => fetch(`${on.model.url}/v1/${kind}`, { method: 'POST', headers: { 'content-type': 'application/json', prefer: 'respond-async' }, body: JSON.stringify(body) }).then(answer => answer.json());
    const { id } = await submit(body);
    const page = await open(on.model, `#/jobs/${id}`);
    await page.getByRole('link', { name: 'Open it in Trace' }).click({ timeout: 60_000 });
    await page.locator('heat-map .base').first().waitFor();
    const [job, answer] = await shown(on.model, page);
    assert.equal(job, id);
    assert.deepEqual(answer.arms.hidden.axes[0].values, [0, 15]);
    // Another is cancelled while it runs.
    const long = await submit({ ...body, layers: 'all', arms: ['hidden', 'mlp', 'attn'], corrupt: { samples: 40 } });
    await page.getByRole('link', { name: 'Jobs' }).click();
    const line = page.locator('jobs-view tbody tr', { hasText: long.id });
    await line.getByRole('button', { name: 'Cancel' }).click();
    await line.filter({ hasText: 'cancelled' }).waitFor({ timeout: 60_000 });
    await page.done();
  });

  test('status: says what serves, and keeps the key in the tab alone', async () => {
    const page = await open(on.model, '#/status');
    await says(page, 'status-view', 'ready');
    await says(page, 'status-view', '30 layers');
    await page.getByLabel('Key', { exact: true }).fill('secret');
    await page.getByRole('button', { name: 'Use it in this tab' }).click();
    await says(page, 'status-view', 'Kept in this tab.');
    await page.getByRole('link', { name: 'Workbench' }).click();
    await page.locator('lens-grid .base').waitFor();
    const text = await copied(page, 'curl');
    assert.match(text, /"authorization: Bearer \$MEDIANT_KEY"/);
    assert.doesNotMatch(text + page.url(), /secret/);
    await page.getByRole('link', { name: 'Status' }).click();
    await page.getByRole('button', { name: 'Forget it' }).click();
    assert.equal(await page.evaluate(() => sessionStorage.length + localStorage.length), 0);
    await page.done();
  });
}
