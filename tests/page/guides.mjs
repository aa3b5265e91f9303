// The guides at /docs: for who uses a reader, dark colours or a phone, and without scripts.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { browser, open, root, serious, shoot } from './support.mjs';

/** Links of the lab page in the guides: fences of the language `page`. */
function links() {
  const files = [...readdirSync(join(root, 'docs')).filter(name => name.endsWith('.md')).map(name => join(root, 'docs', name)), join(root, 'README.md')];
  return files.flatMap(file => [...readFileSync(file, 'utf8').matchAll(/^```page run\nhttp:\/\/localhost:8080\/(.*)\n```$/gm)].map(([, link]) => link));
}

export function guides(on) {
  test('guides: nothing serious on any page, light, dark or on a phone; nothing scrolls sideways', async () => {
    const page = await open(on.tiny, 'docs');
    const links = await page.locator('nav a, main a').evaluateAll(found => found.map(({ href }) => href.split('#')[0]));
    const pages = [...new Set(links)].filter(link => link.startsWith(`${on.tiny.url}/docs`));
    assert.ok(pages.length > 15, pages.join(' '));
    // All have one style: colours are looked at on a few, what may be too wide on each.
    const forms = link => (/tutorial|errors|coming-from/.test(link) ? ['light', 'dark', 'phone'] : ['phone']);
    for (const link of [...pages, `${on.tiny.url}/docs/search?q=noise`]) {
      await page.goto(link);
      const name = link.split('/').at(-1).split('?')[0];
      for (const form of forms(link)) {
        await page.emulateMedia({ colorScheme: form === 'dark' ? 'dark' : 'light' });
        await page.setViewportSize(form === 'phone' ? { width: 390, height: 844 } : { width: 1300, height: 950 });
        await shoot(page, `docs-${name}-${form}`);
        assert.deepEqual(await serious(page), [], `${link} ${form}`);
        assert.equal(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true, `${link} ${form} scrolls sideways`);
      }
    }
    await page.done();
  });

  test('guides: every link of the lab page opens a view that can be asked', async () => {
    assert.ok(links().length > 5, links().join(' '));
    for (const link of new Set(links())) {
      const page = await open(on.model, link);
      await page.locator(link.startsWith('#/workbench') ? 'lens-grid .base' : 'job-bar button.go:enabled').waitFor();
      assert.equal(await page.locator('.problem').count(), 0, link);
      await page.done();
    }
  });

  test('guides: a lint is found by its code, with keys alone and without scripts', async () => {
    const context = await browser.newContext({ javaScriptEnabled: false });
    const page = await context.newPage();
    await page.goto(`${on.tiny.url}/docs`);
    for (let i = 0; i < 60 && !(await page.evaluate(() => document.activeElement?.name === 'q')); i++) await page.keyboard.press('Tab');
    await page.keyboard.type('CORRUPTION_HELPS');
    await page.keyboard.press('Enter');
    await page.waitForURL(/q=CORRUPTION_HELPS/);
    assert.match(await page.locator('main').innerText(), /CORRUPTION_HELPS/);
    await page.locator('main a').first().press('Enter');
    await page.waitForURL(/#/);
    assert.match(await page.locator('main').innerText(), /CORRUPTION_HELPS/);
    await context.close();
  });
}
