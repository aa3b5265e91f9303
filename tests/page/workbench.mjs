import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { copied, open, python, says } from './support.mjs';

const EIFFEL = '#/workbench?prompt=The+Eiffel+Tower+is+in+the+city+of&subject=Eiffel+Tower&target=+Paris';

export function workbench(on) {
  test('workbench: what is typed shows its tokens, cost and top tokens, as the server has them', async () => {
    const page = await open(on.model, '', { allow: ['422'] });
    await says(page, '.next li', '·Paris');
    const bytes = await page.evaluate(() => performance.getEntriesByType('resource').filter(({ name }) => name.includes('/assets/')).reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0));
    assert.ok(bytes > 20_000 && bytes <= 120 * 1024, `${bytes} bytes`);
    // The quickest of some: what else the machine does is not the page's. A debug build reads its files anew for each request.
    const paints = [];
    for (let at = 0; at < 3; at++) {
      const fresh = await open(on.tiny);
      await fresh.locator('.next li').first().waitFor();
      paints.push(await fresh.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0].startTime));
      await fresh.done();
    }
    console.log(`${(bytes / 1024).toFixed(0)} KB, first paint after ${Math.min(...paints).toFixed(0)} ms`);
    assert.ok(Math.min(...paints) <= 1000, `first paint after ${paints} ms`);
    await page.locator('#prompt').fill('The Colosseum is in the city of');
    const run = await on.model.ask('/v1/run', { prompt: 'The Colosseum is in the city of', read: { topk: 10 } });
    await says(page, '.next li', run.runs.run.topk[0].text.replace(' ', '·'));
    assert.equal(await page.locator('token-strip [role=option]').count(), run.runs.run.tokens.length);
    // The subject of before does not occur any more: the reason and the cure are there, in the server's words.
    await says(page, '.problem', '"Eiffel Tower" does not occur in the prompt');
    await page.locator('#prompt').fill('The Eiffel Tower is in the city of');
    const { runs } = await on.model.ask('/v1/plan', { trace: { prompt: 'The Eiffel Tower is in the city of', subject: 'Eiffel Tower', target: ' Paris', arms: ['hidden', 'mlp', 'attn'], metrics: ['logprob:target', 'prob:target'] } });
    await says(page, 'workbench-view', `${runs.toLocaleString('en')} runs`);
    await page.done();
  });

  test('workbench: the subject is marked by pointer, keys and selected text; the link holds it', async () => {
    const page = await open(on.model, '#/workbench?prompt=The+Eiffel+Tower+is+the+Eiffel+Tower&target=+Paris');
    const token = i => page.locator(`token-strip [data-i="${i}"]`);
    await token(7).waitFor();
    const [from, to] = [await token(1).boundingBox(), await token(3).boundingBox()];
    await page.mouse.move(from.x + 4, from.y + 4);
    await page.mouse.down();
    await page.mouse.move(to.x + 4, to.y + 4);
    await page.mouse.up();
    // The text occurs twice, so the link names tokens.
    await says(page, 'main', 'tokens 1 to 3');
    assert.match(page.url(), /tokens=1-4/);
    await page.locator('token-strip [role=listbox]').press('Escape');
    await says(page, 'main', 'Drag over the tokens');
    await page.locator('token-strip [role=listbox]').press('Home');
    await page.keyboard.press('Shift+ArrowRight');
    await says(page, 'main', 'tokens 0 to 1');
    assert.match(page.url(), /subject=The\+E&|tokens=0-2/);
    await page.locator('#prompt').evaluate(box => box.setSelectionRange(17, 19));
    await page.getByRole('button', { name: 'Mark the selected text' }).click();
    await says(page, 'main', 'tokens 4 to 4');
    await page.done();
  });

  test('workbench: the lens is read with keys, and its table, curl and the server agree', async () => {
    const page = await open(on.model, EIFFEL);
    await page.locator('lens-grid [role=application]').waitFor();
    await page.locator('lens-grid [role=application]').focus();
    for (const key of ['End', 'PageUp', 'ArrowDown']) await page.keyboard.press(key);
    const run = await on.model.ask('/v1/run', { prompt: 'The Eiffel Tower is in the city of', target: ' Paris', read: { topk: 10, logit_lens: { topk: 3 } } });
    const lens = run.runs.run.logit_lens;
    const [best] = lens.topk.at(-2).at(-1);
    const spoken = await page.locator('lens-grid #spoken').innerText();
    assert.ok(spoken.startsWith(`Layer ${lens.layers.at(-2)}, after 8 ·of: ${best.text.replace(' ', '·')} ${Number((best.prob * 100).toPrecision(3))} %`), spoken);
    await page.keyboard.press('t');
    assert.equal(await page.locator('lens-grid table tbody tr').count(), lens.layers.length);
    // Opened, the cell's tokens are followed through the layers.
    await page.keyboard.press('t');
    await page.keyboard.press('Enter');
    await page.locator('series-chart svg[role]').focus();
    await page.keyboard.press('End');
    const [last] = lens.topk.at(-1).at(-1);
    assert.ok((await page.locator('series-chart #spoken').innerText()).includes(`·Paris ${Number(last.prob.toPrecision(3))}`));
    const curl = JSON.parse(execFileSync('bash', ['-c', `${await copied(page, 'curl')} -s`], { encoding: 'utf8', maxBuffer: 1 << 26 }));
    assert.deepEqual(curl.runs.run.logit_lens, lens);
    if (process.env.MEDIANT_PYTHON) assert.deepEqual(python(await copied(page, 'python'), 'runs').run.logit_lens, lens);
    await page.done();
  });

  test('what is copied is copied over plain http too, where browsers hide the clipboard', async () => {
    const prepare = page => page.addInitScript(() => {
      window.clipboard = navigator.clipboard;
      Object.defineProperty(navigator, 'clipboard', { value: undefined });
    });
    const page = await open(on.tiny, '#/workbench?prompt=Hello', { prepare });
    await page.locator('take-away [data-copy=link]').click();
    await says(page, 'take-away', 'Copied.');
    assert.equal(await page.evaluate(() => window.clipboard.readText()), page.url());
    await page.done();
  });

  test('texts in other scripts and long prompts are shown whole', async () => {
    const long = Array.from({ length: 40 }, (_, at) => `word ${at}`).join(' ');
    for (const prompt of ['埃菲尔铁塔位于城市', 'يقع برج إيفل في مدينة', 'Smile 😀 twice 👩‍🚀', long]) {
      const page = await open(on.tiny, `#/workbench?${new URLSearchParams({ prompt })}`);
      await page.locator('lens-grid .base').waitFor();
      assert.doesNotMatch(await page.locator('lab-page').innerText(), /\ufffd/);
      assert.equal(await page.locator('#prompt').inputValue(), prompt);
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true, 'the page scrolls sideways');
      await page.done();
    }
  });
}
