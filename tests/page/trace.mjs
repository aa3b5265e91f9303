import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { behind, computed, copied, open, place, python, says, serious, shoot, shown } from './support.mjs';

export const LINK = '#/trace?prompt=The+Eiffel+Tower+is+in+the+city+of&subject=Eiffel+Tower&target=+Paris&samples=2&every=10';

/** Takes seconds, also with the tiny model. */
const LONG = `#/trace?prompt=${'The+Eiffel+Tower+is+in+the+city+of+Paris+and+'.repeat(2)}so&tokens=5-17&target=P&samples=6&arms=hidden,mlp`;

export function trace(on) {
  test('trace: the maps have the numbers of the server, every way of asking gives them', async () => {
    const page = await open(on.model, LINK);
    await page.getByRole('button', { name: 'Trace', exact: true }).click();
    await page.locator('trace-view take-away').waitFor({ timeout: 90_000 });
    const [id, answer] = await shown(on.model, page);
    assert.deepEqual(answer.arms.hidden.axes[0].values, [0, 10, 20]);
    // By keys: the cursor begins at the first layer and the last token.
    const map = page.locator('heat-map [role=application]');
    await map.focus();
    for (const key of ['ArrowLeft', 'Home', 'ArrowRight', 'ArrowRight', 'ArrowUp']) await page.keyboard.press(key);
    const mean = answer.arms.hidden.effects['logprob:target'].mean[1][2];
    const spoken = await page.locator('heat-map #spoken').innerText();
    assert.match(spoken, /^Layer 10, token 2 iffel \(noised\)\. Hidden state \+/);
    assert.ok(spoken.includes(`Hidden state +${Number(mean.toPrecision(3))} plus or minus`), `${spoken} of ${mean}`);
    await page.keyboard.press('Home');
    await says(page, 'heat-map cell-reading', 'exactly null');
    await page.keyboard.press('s');
    const strongest = await page.locator('heat-map #spoken').innerText();
    const first = await page.locator('trace-view ol li').first().innerText();
    assert.ok(first.includes(strongest.match(/Layer \d+/)[0].toLowerCase()), `${first} / ${strongest}`);
    // A cell, opened and let go.
    await page.keyboard.press('Enter');
    await says(page, 'trace-view', 'most probable tokens of each of the three');
    await says(page, 'heat-map', 'Held here');
    await page.keyboard.press('Escape');
    await page.locator('heat-map', { hasText: 'Held here' }).waitFor({ state: 'detached' });
    await page.keyboard.press('t');
    assert.equal(await page.locator('heat-map table').count() - await page.locator('heat-map cell-reading table').count(), 3);
    // What is taken away is what the server gives.
    for (const [form, more] of [['csv', ''], ['svg', '&metric=logprob%3Atarget'], ['png', '&metric=logprob%3Atarget']]) {
      const [download] = await Promise.all([page.waitForEvent('download'), page.locator(`take-away [data-form=${form}]`).click()]);
      const there = await fetch(`${on.model.url}${place(id)}?format=${form}${more}`);
      assert.deepEqual(readFileSync(await download.path()), Buffer.from(await there.arrayBuffer()), form);
    }
    const curl = JSON.parse(execFileSync('bash', ['-c', `${await copied(page, 'curl')} -s`], { encoding: 'utf8', maxBuffer: 1 << 26 }));
    assert.deepEqual(curl.arms, answer.arms);
    if (process.env.MEDIANT_PYTHON) assert.deepEqual(python(await copied(page, 'python'), 'arms'), answer.arms);
    // A link in a fresh browser: the same picture, of the metric that was chosen, and nothing is computed.
    await page.locator('trace-view label', { hasText: 'Metric' }).locator('select').selectOption('prob:target');
    await says(page, 'heat-map', 'effect on P(“·Paris”)');
    await page.waitForTimeout(200);
    const pixels = page => page.locator('heat-map .base').first().evaluate(canvas => canvas.toDataURL());
    const here = await pixels(page);
    const before = await computed(on.model);
    const other = await open(on.model, page.url().slice(on.model.url.length + 1));
    await other.locator('heat-map .base').first().waitFor();
    await other.waitForTimeout(300);
    assert.equal(await pixels(other), here);
    assert.equal(await computed(on.model), before);
    await other.done();
    await page.done();
  });

  test('trace: what the server refuses is said with its fix; what is missing is asked for', async () => {
    const page = await open(on.model, '#/trace?prompt=The+Eiffel+Tower+is+in+the+city+of&target=+Paris', { allow: ['422'] });
    await says(page, 'trace-view', 'Mark the subject');
    assert.ok(await page.getByRole('button', { name: 'Trace', exact: true }).isDisabled());
    await page.locator('token-strip [data-i="2"]').click();
    await page.getByLabel('Noise samples').fill('0');
    await page.keyboard.press('Tab');
    await says(page, 'trace-view .problem', '/corrupt/samples');
    await page.getByLabel('Noise samples').fill('2');
    await page.keyboard.press('Tab');
    await page.locator('trace-view .problem').waitFor({ state: 'detached' });
    await page.done();
  });

  test('a trace fills in while it is computed; a connection that is cut for 10 s loses nothing, and nothing is computed twice', async () => {
    const before = await computed(on.tiny);
    const first = await open(on.tiny, LONG);
    await first.getByRole('button', { name: 'Trace', exact: true }).click();
    await first.locator('trace-view take-away').waitFor({ timeout: 120_000 });
    const [, undisturbed] = await shown(on.tiny, first);
    await first.done();
    const all = (await computed(on.tiny)) - before;
    const line = await behind(on.tiny);
    // Another seed: what was computed is not found.
    const page = await open(line, `${LONG}&seed=2`, { allow: ['Failed to load resource', 'ERR_'] });
    const again = await computed(on.tiny);
    await page.getByRole('button', { name: 'Trace', exact: true }).click();
    const cells = () => page.evaluate(() => document.querySelector('lab-page').lab.jobs.trace.partial?.arms.hidden.effects['logprob:target'].mean.flat().filter(Number.isFinite).length ?? 0);
    while (!(await cells())) await page.waitForTimeout(50);
    await page.locator('heat-map .base').first().waitFor();
    line.cut(true);
    await says(page, '.banner', 'No connection');
    await shoot(page, 'trace-lost');
    assert.deepEqual(await serious(page), [], 'half computed, without a connection');
    await page.waitForTimeout(1000);
    const left = await computed(on.tiny);
    await page.waitForTimeout(8500);
    assert.equal(await computed(on.tiny), left, 'nothing is computed for nobody');
    assert.ok(left - again < all, 'it was cut before its end');
    line.cut(false);
    await page.locator('trace-view take-away').waitFor({ timeout: 120_000 });
    assert.equal(await page.locator('.banner').count(), 0);
    const spent = (await computed(on.tiny)) - again;
    assert.ok(spent < 1.1 * all, `${spent} of ${all}`);
    const [, answer] = await shown(on.tiny, page);
    const whole = await on.tiny.ask('/v1/trace', { ...undisturbed.request, corrupt: { ...undisturbed.request.corrupt, seed: 2 } });
    assert.deepEqual(answer.arms, whole.arms);
    await page.done();
    await line.stop();
  });

  test('closing the tab frees the engine', async () => {
    const page = await open(on.tiny, `${LONG.replace('samples=6', 'samples=60')}&seed=3`);
    await page.getByRole('button', { name: 'Trace', exact: true }).click();
    await page.locator('heat-map .base').first().waitFor({ timeout: 60_000 });
    await page.done();
    // What is on its way ends: the piece in hand, and one sent ahead.
    let left = -1;
    for (let batches = 0; left !== (left = await computed(on.tiny)); batches++) {
      assert.ok(batches < 4, 'it is computed for nobody');
      await new Promise(resolve => setTimeout(resolve, 1500));
    }
  });

  test('a remark is cured by its button', async () => {
    const page = await open(on.tiny, '#/trace?prompt=The+Tower&subject=Tower&target=P&samples=1');
    await says(page, 'job-bar', 'SINGLE_NOISE_SAMPLE');
    await page.locator('[data-cure=samples]').first().press('Enter');
    await page.locator('job-bar remark-list', { hasText: 'SINGLE_NOISE_SAMPLE' }).waitFor({ state: 'detached' });
    assert.equal(await page.getByLabel('Noise samples').inputValue(), '10');
    await page.locator('[data-cure=target]').first().press('Enter');
    await page.locator('job-bar remark-list', { hasText: 'NO_LEADING_SPACE' }).waitFor({ state: 'detached' });
    assert.match(page.url(), /target=\+P/);
    await page.done();
  });

  test('a full server, a loading one and one that was updated are said in words', async () => {
    const answers = [
      [429, { title: 'Busy', detail: 'the queue is full' }, 'The server is full'],
      [503, { title: 'Unavailable', detail: 'the model is loading' }, 'The model is loading'],
    ];
    for (const [status, document, words] of answers) {
      let isOver = false;
      const prepare = async page => {
        await page.route('**/v1/**', route => (isOver ? route.continue() : route.fulfill({
          status, headers: { 'content-type': 'application/problem+json', 'retry-after': '1' }, body: JSON.stringify(document),
        })));
        await page.route(`${on.tiny.url}/`, route => (route.request().method() === 'HEAD' ? route.fulfill({ status: 200, headers: { etag: 'W/"0123"' } }) : route.continue()));
      };
      const page = await open(on.tiny, '', { allow: ['Failed to load resource'], prepare });
      await says(page, '.banner', words);
      assert.deepEqual(await serious(page), [], words);
      isOver = true;
      await page.locator('.next li').first().waitFor();
      if (status === 503) await says(page, '.banner', 'The server was updated.');
      else assert.equal(await page.locator('.banner').count(), 0);
      await page.done();
    }
  });

  test('a server that needs a key gets it from the tab, and nothing else does', async () => {
    const page = await open(on.locked, '', { allow: ['401'] });
    await says(page, '.banner', 'This server needs a key');
    const give = async text => {
      await page.getByLabel('Key', { exact: true }).fill(text);
      await page.keyboard.press('Enter');
    };
    await give('mdt_wrong');
    await says(page, '.banner', 'The token is not one of this server');
    await give(on.locked.token);
    await page.locator('.next li').first().waitFor();
    assert.equal(await page.locator('.banner').count(), 0);
    // What is taken away carries no key, and yet the page's own requests do.
    const [download] = await Promise.all([page.waitForEvent('download'), page.locator('take-away [data-form=svg]').click()]);
    assert.match(readFileSync(await download.path(), 'utf8'), /^<svg/);
    const text = await copied(page, 'curl');
    assert.doesNotMatch(text + page.url(), /mdt_/);
    const run = JSON.parse(execFileSync('bash', ['-c', `${text} -s`], { encoding: 'utf8', maxBuffer: 1 << 26, env: { ...process.env, MEDIANT_KEY: on.locked.token } }));
    assert.ok(run.runs.run.topk.length);
    assert.equal(await page.evaluate(() => localStorage.length), 0);
    await page.getByRole('link', { name: 'Status' }).click();
    await says(page, 'status-view', 'ada, key');
    await page.done();
  });
}
