import assert from 'node:assert/strict';
import { test } from 'node:test';
import { open, says, serious, shoot } from './support.mjs';

const DOCUMENT = { title: 'The engine failed', detail: 'the engine died of this request' };

/**
 * Links of views by name, and what is there when they are. `asks` names the experiment that a view asks for; the other views show what
 * the server says of itself.
 */
export function look(on, views) {
  for (const [name, { link, steps = async () => {}, until, allow = [], asks }] of Object.entries(views)) {
    const whole = async (page, form) => {
      await page.waitForTimeout(250);
      await shoot(page, `${name}-${form}`);
      assert.deepEqual(await serious(page), [], form);
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true, `${form}: the page scrolls sideways`);
    };

    test(`${name}: nothing serious for who uses a reader, dark colours or a phone`, async () => {
      const page = await open(on.tiny, link, { allow });
      await steps(page);
      await page.locator(until).first().waitFor({ timeout: 30_000 });
      for (const form of ['light', 'dark', 'phone']) {
        await page.emulateMedia({ colorScheme: form === 'dark' ? 'dark' : 'light' });
        if (form === 'phone') await page.setViewportSize({ width: 390, height: 844 });
        await whole(page, form);
      }
      await page.done();
    });

    if (allow.length) continue;
    test(`${name}: nothing serious while the server is full, and where it fails`, async () => {
      for (const [form, status] of [['busy', 429], ['error', 500]]) {
        const held = ({ pathname }) => (asks ? pathname === `/v1/${asks}` : pathname.startsWith('/v1/'));
        const prepare = page => page.route(held, route => route.fulfill({
          status, headers: { 'content-type': 'application/problem+json', 'retry-after': '5' }, body: JSON.stringify({ status, ...DOCUMENT }),
        }));
        const page = await open(on.tiny, link, { allow: ['Failed to load resource'], prepare });
        if (asks) await steps(page);
        if (status === 429) await says(page, '.banner', 'The server is full');
        else await says(page, '.problem', 'The engine failed');
        await whole(page, form);
        await page.done();
      }
    });
  }
}
